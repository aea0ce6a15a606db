#include <algorithm>

#include "engine/backend/cuda/dispatch.hpp"
#include "engine/backend/cuda/launch.cuh"
#include "engine/backend/cuda/ptx.cuh"
#include "engine/backend/cuda/quantized.hpp"
#include "engine/backend/cuda/quantized_decode.cuh"

namespace cogserve::cuda {
namespace {

// --- kernels ------------------------------------------------------------------------------------

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;

// Four inputs of one output as they come, [k .. k + 3]: codes in the low bytes first. Zero codes
// beyond the matrix.
template <WeightFormat kFormat>
__device__ __forceinline__ uint32_t four_codes(const QuantizedLayout& layout, const uint8_t* codes,
                                               int64_t out, int64_t k) {
  if (out >= layout.out) return 0;
  uint32_t four = 0;
  if constexpr (kFormat == WeightFormat::kInt8) {
    for (int i = 0; i < 4; ++i) {
      if (k + i < layout.in) four |= uint32_t{codes[out * layout.in + k + i]} << (8 * i);
    }
  } else {
    for (int i = 0; i < 4; i += 2) {
      if (k + i >= layout.in) continue;
      const uint32_t pair = codes[(out * layout.in + k + i) / 2];
      four |= ((pair & 0xf) | (pair >> 4) << 8) << (8 * i);
    }
  }
  return four;
}

// Inputs 0, 1 and 2, 3 from their bytes into the halves of a word, as the decoder takes them apart.
__device__ __forceinline__ uint32_t spread(uint32_t four) {
  return (four & 0xff) | (four >> 8 & 0xff) << 16 | (four >> 16 & 0xff) << 8 | (four >> 24) << 24;
}

// A warp writes one tile. Bytes: the codes, in and out.
template <WeightFormat kFormat>
__global__ __launch_bounds__(kThreads) void pack_codes_kernel(QuantizedLayout layout,
                                                              const uint8_t* codes,
                                                              uint32_t* packed) {
  ptx::begin_kernel();
  constexpr int kWords = words_of_a_step(kFormat);
  const int lane = threadIdx.x % 32;
  const int64_t tile = static_cast<int64_t>(blockIdx.y) * kWarps + threadIdx.x / 32;
  if (tile >= layout.tiles_of_a_row()) return;
  const int64_t out = static_cast<int64_t>(blockIdx.x) * kTileOuts + lane / 4;
  const int64_t first = (blockIdx.x * layout.tiles_of_a_row() + tile) * kTileSteps * kWords * 32;
  for (int step = 0; step < kTileSteps; ++step) {
    const int64_t k = tile * kTileIns + input_of(lane % 4, step);
    const uint32_t low = spread(four_codes<kFormat>(layout, codes, out, k));
    const uint32_t high = spread(four_codes<kFormat>(layout, codes, out + 8, k));
    uint32_t words[2] = {low, high};
    // Nibbles 0, 2 of the halves: output g, inputs 0 | 1 and 2 | 3; nibbles 1, 3: output g + 8.
    if constexpr (kWords == 1) words[0] = low | high << 4;
    for (int i = 0; i < kWords; ++i) {
      const int word = step * kWords + i;
      packed[first + (word / 4 * 32 + lane) * 4 + word % 4] = words[i];
    }
  }
}

// One thread for each scale (and zero) of the layout.
__global__ __launch_bounds__(kThreads) void pack_groups_kernel(QuantizedLayout layout,
                                                               const float* scales,
                                                               const uint8_t* zeros,
                                                               void* packed_scales,
                                                               uint8_t* packed_zeros) {
  ptx::begin_kernel();
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t groups = layout.groups();
  if (at >= layout.tile_rows() * groups * kTileOuts) return;
  const int64_t out = at / (groups * kTileOuts) * kTileOuts + at % kTileOuts;
  const int64_t group = at / kTileOuts % groups;
  const bool inside = out < layout.out;
  const float scale = inside ? scales[out * groups + group] : 0.0f;
  if (layout.half_scales) {
    static_cast<__half*>(packed_scales)[at] = narrow<__half>(scale);
  } else {
    static_cast<float*>(packed_scales)[at] = scale;
  }
  if (packed_zeros != nullptr) packed_zeros[at] = inside ? zeros[out * groups + group] : 0;
}

// The weights of a pair that decode_step gave.
template <typename T, WeightFormat kFormat>
__device__ __forceinline__ uint32_t scaled(uint32_t pair, float scale) {
  if constexpr (kFormat == WeightFormat::kCodebook4) return pair;
  float low, high;
  unpack_pair<T>(pair, low, high);
  return pack_pair<T>(low * scale, high * scale);
}

// Elements k and k + 1 of a row of `in`, which is at the address of a pair unless `in` is odd.
template <typename T>
__device__ __forceinline__ void store_pair(uint32_t pair, int64_t k, int64_t in, T* row) {
  if (k >= in) return;
  if (in % 2 == 0) {
    *reinterpret_cast<uint32_t*>(row + k) = pair;
    return;
  }
  memcpy(row + k, &pair, sizeof(T));
  if (k + 1 < in) memcpy(row + k + 1, reinterpret_cast<const T*>(&pair) + 1, sizeof(T));
}

// A warp unpacks one tile; a lane writes 16 inputs of two outputs. With kWide eight in a row are of
// one group, all there, and at an address of 16 bytes.
template <typename T, WeightFormat kFormat, bool kWide>
__global__ __launch_bounds__(kThreads) void dequantize_kernel(
    const __grid_constant__ QuantizedMatrix w, int first_row, int tiles, int groups, int group_size,
    Tensor y) {
  ptx::begin_kernel();
  float* const codebook = shared_memory<float>();
  if (threadIdx.x < 16) codebook[threadIdx.x] = w.codebook[threadIdx.x];
  __syncthreads();
  const int lane = threadIdx.x % 32;
  const int tile = static_cast<int>(blockIdx.y * kWarps + threadIdx.x / 32);
  if (tile >= tiles) return;
  const int tile_row = first_row + static_cast<int>(blockIdx.x);
  const auto codes = load_codes<kFormat>(w, tile_row * tiles + tile, lane);
  const auto group_at = [&](int k) {
    const int place = (tile_row * groups + k / group_size) * kTileOuts + lane / 4;
    return read_group<T>(load_group(w, place), w.layout.half_scales);
  };
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kTileOuts + lane / 4;
  T* const to = static_cast<T*>(y.data) + row * w.layout.in;  // and 8 rows on
  if constexpr (kWide) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int k = tile * kTileIns + input_of(lane % 4, 2 * half);
      const auto group = group_at(k);
      uint32_t pairs[2][4];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        decode_step<T, kFormat>(codes, 2 * half + j, group, codebook, pairs[j]);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (row + 8 * i >= y.rows) continue;
        ptx::store_16(to + 8 * i * w.layout.in + k,
                      {scaled<T, kFormat>(pairs[0][i], group.scale[i]),
                       scaled<T, kFormat>(pairs[0][i + 2], group.scale[i]),
                       scaled<T, kFormat>(pairs[1][i], group.scale[i]),
                       scaled<T, kFormat>(pairs[1][i + 2], group.scale[i])});
      }
    }
  } else {
    for (int step = 0; step < kTileSteps; ++step) {
      const int k = tile * kTileIns + input_of(lane % 4, step);
      if (k >= w.layout.in) return;
      const auto group = group_at(k);
      uint32_t pairs[4];
      decode_step<T, kFormat>(codes, step, group, codebook, pairs);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (row + i % 2 * 8 >= y.rows) continue;
        store_pair(scaled<T, kFormat>(pairs[i], group.scale[i % 2]), k + i / 2 * 2, w.layout.in,
                   to + i % 2 * 8 * w.layout.in);
      }
    }
  }
}

// --- launchers ----------------------------------------------------------------------------------

dim3 tile_grid(int64_t tile_rows, const QuantizedLayout& layout) {
  return {static_cast<unsigned>(tile_rows), ceil_div(layout.tiles_of_a_row(), kWarps)};
}

}  // namespace

void pack_quantized(const QuantizedLayout& layout, const PackedRows& part, void* storage,
                    cudaStream_t stream) {
  check(part.first % kTileOuts == 0, "pack_quantized: outputs begin at a tile");
  auto* const bytes = static_cast<uint8_t*>(storage);
  QuantizedLayout before = layout, packed = layout;
  before.out = part.first;
  packed.out = part.rows;
  with_format(layout.format, [&](auto format) {
    launch("pack_codes", {tile_grid(packed.tile_rows(), packed), dim3(kThreads)}, stream,
           pack_codes_kernel<format()>, packed, part.codes,
           reinterpret_cast<uint32_t*>(bytes + before.code_bytes()));
  });
  const int64_t groups_before = part.first * layout.groups();
  const int64_t values = packed.tile_rows() * layout.groups() * kTileOuts;
  uint8_t* const scales = bytes + layout.scales_at() + groups_before * (layout.half_scales ? 2 : 4);
  launch("pack_groups", {dim3(ceil_div(values, kThreads)), dim3(kThreads)}, stream,
         pack_groups_kernel, packed, part.scales, part.zeros, static_cast<void*>(scales),
         layout.has_zeros ? bytes + layout.zeros_at() + groups_before : nullptr);
}

void dequantize(const QuantizedMatrix& w, int64_t first, const Tensor& y, cudaStream_t stream) {
  const QuantizedLayout& layout = w.layout;
  const bool one_group = layout.groups() == 1;
  check(first % kTileOuts == 0, "dequantize: outputs begin at a tile");
  check(layout.group_size % kGroupMultiple == 0 || one_group, "dequantize: groups of fours");
  check(y.cols == layout.in && y.row_stride == y.cols, "dequantize: y is contiguous");
  check_counts(layout);
  const bool wide =
      layout.in % kTileIns == 0 && (layout.group_size % 8 == 0 || one_group) && rows_are_aligned(y);
  const LaunchShape shape = {tile_grid(ceil_div(y.rows, kTileOuts), layout), dim3(kThreads),
                             16 * sizeof(float)};
  with_activation(y.dtype, [&](auto element) {
    using T = typename decltype(element)::Type;
    with_format(layout.format, [&](auto format) {
      launch("dequantize", shape, stream,
             wide ? dequantize_kernel<T, format(), true> : dequantize_kernel<T, format(), false>, w,
             static_cast<int>(first / kTileOuts), static_cast<int>(layout.tiles_of_a_row()),
             static_cast<int>(layout.groups()),
             static_cast<int>(std::min(layout.group_size, layout.in)), y);
    });
  });
}

}  // namespace cogserve::cuda
