// How a quantised matrix lies in device memory. Plain arithmetic: no CUDA here.
//
// Tiles of 16 outputs and 64 inputs, one after the other along the inputs, so that each thread of a
// warp finds all it needs of a tile in one place and in the order in which a matrix instruction
// wants it. With g = lane / 4 and t = lane % 4, a lane holds inputs 8 t .. 8 t + 7 and 32 + 8 t ..
// 32 + 8 t + 7 of outputs g and g + 8; each of the four steps that a tile takes needs four of both,
// from input_of(t, step) on. So the four lanes of an output load 64 bytes of a row of x, or store
// them of W unpacked, side by side.
//   4 bits: a word for each step. Its nibbles, from the lowest, are
//           inputs 0 0 2 2 1 1 3 3 of outputs g, g + 8, g, g + 8, ...
//   8 bits: two words for each step: output g, output g + 8. Bytes: inputs 0, 2, 1, 3.
// A lane's words of a tile are 16 or 32 bytes; 16 bytes of lane 0, of lane 1, ... lie side by side.
// Scales and zeros: for each tile row and group, those of 16 outputs. What is beyond the matrix has
// scale 0.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "engine/base/host_weight.hpp"

namespace cogserve::cuda {

inline constexpr int kTileOuts = 16;
inline constexpr int kTileIns = 64;
// Groups that can be unpacked, where a row has several, are multiples of so many inputs.
inline constexpr int64_t kGroupMultiple = 4;
inline constexpr int kTileSteps = 4;

// The first of a step's inputs within the tile.
constexpr int input_of(int t, int step) { return step / 2 * (kTileIns / 2) + 8 * t + step % 2 * 4; }

constexpr int words_of_a_step(WeightFormat format) { return format == WeightFormat::kInt8 ? 2 : 1; }

struct QuantizedLayout {
  WeightFormat format = WeightFormat::kInt4;
  int64_t out = 0;
  int64_t in = 0;
  int64_t group_size = 0;
  bool half_scales = false;  // f16, else f32
  bool has_zeros = false;    // else all 8

  bool operator==(const QuantizedLayout&) const = default;

  constexpr int64_t tile_rows() const { return (out + kTileOuts - 1) / kTileOuts; }
  constexpr int64_t tiles_of_a_row() const { return (in + kTileIns - 1) / kTileIns; }
  constexpr int64_t groups() const { return (in + group_size - 1) / group_size; }

  // In bytes, from the begin of the storage.
  size_t code_bytes() const;
  size_t scales_at() const { return code_bytes(); }
  size_t zeros_at() const;
  size_t bytes() const;
};

// The layout for a weight or for the form of one.
QuantizedLayout layout_of(const HostWeight& weight);

// A quantised matrix on the device.
struct QuantizedMatrix {
  QuantizedLayout layout;
  const uint32_t* codes = nullptr;
  const void* scales = nullptr;    // [tile rows, groups, 16], f16 or f32
  const uint8_t* zeros = nullptr;  // the same; null: 8
  std::array<float, 16> codebook = {};

  QuantizedMatrix(const QuantizedLayout& of, const void* storage,
                  const std::array<float, 16>& values);
};

}  // namespace cogserve::cuda
