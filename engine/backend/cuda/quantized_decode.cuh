// From the codes of a tile (see quantized_layout.hpp) to the operands of a matrix instruction.
#pragma once

#include "engine/backend/cuda/numeric.cuh"
#include "engine/backend/cuda/quantized_layout.hpp"
#include "engine/base/check.hpp"

namespace cogserve::cuda {

// A small integer n as a float is this pattern with n in the low bits: 128 + n in bf16 (n < 128),
// 1024 + n in f16. Subtracting the pattern leaves n exactly, without a conversion.
template <typename T>
inline constexpr uint32_t kBias = std::is_same_v<T, __nv_bfloat16> ? 0x43004300u : 0x64006400u;

// Both halves of a word.
constexpr uint32_t twice(uint32_t half) { return half | half << 16; }

template <typename T>
__device__ __forceinline__ uint32_t subtract_pairs(uint32_t a, uint32_t b) {
  using Pair = std::conditional_t<std::is_same_v<T, __nv_bfloat16>, __nv_bfloat162, __half2>;
  Pair x, y;
  memcpy(&x, &a, sizeof x);
  memcpy(&y, &b, sizeof y);
  const Pair z = __hsub2(x, y);
  uint32_t word;
  memcpy(&word, &z, sizeof word);
  return word;
}

// The scales and zeros of outputs g and g + 8 in one group, as they are stored: nothing waits for
// them yet.
struct StoredGroup {
  uint32_t scales[2];
  uint32_t zeros[2];
};

// `at` is the place of output g among all scales.
__device__ __forceinline__ StoredGroup load_group(const QuantizedMatrix& w, int64_t at) {
  StoredGroup group;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    group.scales[i] = w.layout.half_scales ? static_cast<const uint16_t*>(w.scales)[at + 8 * i]
                                           : static_cast<const uint32_t*>(w.scales)[at + 8 * i];
    group.zeros[i] = w.zeros == nullptr ? 8u : w.zeros[at + 8 * i];
  }
  return group;
}

// What a lane needs to read the codes of one group: scales of outputs g and g + 8, and what to
// subtract from their codes.
template <typename T>
struct GroupOfLane {
  float scale[2];
  uint32_t base[2];
};

template <typename T>
__device__ __forceinline__ GroupOfLane<T> read_group(const StoredGroup& stored, bool half_scales) {
  GroupOfLane<T> group;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const auto half = static_cast<uint16_t>(stored.scales[i]);
    group.scale[i] =
        half_scales ? widen(__ushort_as_half(half)) : __uint_as_float(stored.scales[i]);
    group.base[i] = kBias<T> | twice(stored.zeros[i]);
  }
  return group;
}

// A lane's words of a tile.
template <WeightFormat kFormat>
struct TileCodes {
  uint32_t words[kTileSteps * words_of_a_step(kFormat)];
};

// `tile` counts those of all tile rows.
template <WeightFormat kFormat>
__device__ __forceinline__ TileCodes<kFormat> load_codes(const QuantizedMatrix& w, int tile,
                                                         int lane) {
  constexpr int kPieces = words_of_a_step(kFormat);  // of 16 bytes
  const auto* from = reinterpret_cast<const uint4*>(w.codes) + (tile * kPieces * 32 + lane);
  TileCodes<kFormat> codes;
#pragma unroll
  for (int i = 0; i < kPieces; ++i) {
    const uint4 piece = from[i * 32];
    codes.words[4 * i] = piece.x;
    codes.words[4 * i + 1] = piece.y;
    codes.words[4 * i + 2] = piece.z;
    codes.words[4 * i + 3] = piece.w;
  }
  return codes;
}

// What load_codes and load_group count in 32 bits.
inline void check_counts(const QuantizedLayout& layout) {
  check(layout.tile_rows() * layout.tiles_of_a_row() < (1 << 25), "a quantised matrix: too large");
  check(layout.tile_rows() * layout.groups() < (1 << 27), "a quantised matrix: too many groups");
}

// The operand A of step `step`: code - zero (kInt4) or code (kInt8), still without their scales, or
// the weights themselves (kCodebook4). `codebook` lies in shared memory.
template <typename T, WeightFormat kFormat>
__device__ __forceinline__ void decode_step(const TileCodes<kFormat>& codes, int step,
                                            const GroupOfLane<T>& group, const float* codebook,
                                            uint32_t (&a)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int out = i % 2;  // g or g + 8
    if constexpr (kFormat == WeightFormat::kInt8) {
      const uint32_t bytes = codes.words[2 * step + out] >> (8 * (i / 2)) & twice(0xff);
      if constexpr (std::is_same_v<T, __nv_bfloat16>) {
        // 7 bits of mantissa: the sign's 128 goes into the other operand, 128 or 256.
        a[i] =
            subtract_pairs<T>(kBias<T> | (bytes & twice(0x7f)), kBias<T> | (bytes & twice(0x80)));
      } else {
        a[i] = subtract_pairs<T>(kBias<T> | (bytes ^ twice(0x80)), kBias<T> | twice(0x80));
      }
    } else {
      const uint32_t nibbles = codes.words[step] >> (4 * i) & twice(0xf);
      if constexpr (kFormat == WeightFormat::kInt4) {
        a[i] = subtract_pairs<T>(kBias<T> | nibbles, group.base[out]);
      } else {
        a[i] = pack_pair<T>(codebook[nibbles & 0xf] * group.scale[out],
                            codebook[nibbles >> 16] * group.scale[out]);
      }
    }
  }
}

template <typename T, WeightFormat kFormat>
__device__ __forceinline__ void decode_tile(const TileCodes<kFormat>& codes,
                                            const GroupOfLane<T>& group, const float* codebook,
                                            uint32_t (&a)[kTileSteps][4]) {
#pragma unroll
  for (int step = 0; step < kTileSteps; ++step) {
    decode_step<T, kFormat>(codes, step, group, codebook, a[step]);
  }
}

}  // namespace cogserve::cuda
