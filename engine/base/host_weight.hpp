// A weight matrix as a checkpoint holds it: dense, or quantised in one of the formats that the
// engine computes with. Whatever a file's own layout is, its reader brings it into this one.
//
// Every format is the same sentence: W[o, i] = round(value(code[o, i]) * scale[o, i / group_size]),
// multiplied in f32, and rounded once to `dtype` (kF32: left as it is).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "engine/base/dtype.hpp"
#include "engine/base/tensor.hpp"

namespace cogserve {

enum class WeightFormat {
  kDense,
  kInt8,       // value = code, -127 .. 127
  kInt4,       // value = code - zero, code 0 .. 15
  kCodebook4,  // value = codebook[code]
};

constexpr std::string_view format_name(WeightFormat format) {
  switch (format) {
    case WeightFormat::kDense:
      return "dense";
    case WeightFormat::kInt8:
      return "int8";
    case WeightFormat::kInt4:
      return "int4";
    case WeightFormat::kCodebook4:
      return "codebook4";
  }
  return "?";
}

// The arrays live where the reader keeps them; without them it is the form of a matrix that is to
// come, from which memory is planned.
struct HostWeight {
  WeightFormat format = WeightFormat::kDense;
  HostTensor dense;  // kDense: [out, in...], trailing dimensions are flattened; no array below

  int64_t out_features = 0;
  int64_t in_features = 0;    // even for the 4-bit formats
  int64_t group_size = 0;     // inputs that share a scale; the last group of a row may be shorter
  DType dtype = DType::kF32;  // what a dequantised element is rounded to
  bool has_zeros = false;     // kInt4: each group has a zero of its own, else all have 8
  DType scale_dtype = DType::kF32;   // that holds every scale: kF16 or kF32
  const std::byte* codes = nullptr;  // 4 bits: [out, in / 2], the even input in the low nibble of a
                                     // byte; kInt8: [out, in], signed
  const float* scales = nullptr;     // [out, groups()]
  const uint8_t* zeros = nullptr;    // where has_zeros: [out, groups()], 0 .. 16
  std::array<float, 16> codebook = {};  // kCodebook4

  int64_t groups() const { return (in_features + group_size - 1) / group_size; }
};

// [out, in...] as it is.
HostWeight dense_weight(HostTensor tensor);

// The code of element `index`, row by row, of a 4-bit format.
inline unsigned nibble_code(const HostWeight& weight, int64_t index) {
  const auto pair = std::to_integer<unsigned>(weight.codes[index / 2]);
  return index % 2 == 0 ? pair & 15u : pair >> 4;
}

// W[row, col] by the definition above: the reference for every kernel.
float weight_value(const HostWeight& weight, int64_t row, int64_t col);

}  // namespace cogserve
