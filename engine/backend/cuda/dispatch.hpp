// From a dtype at run time to an element type at compile time, and what launchers ask of tensors.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "engine/base/check.hpp"
#include "engine/base/host_weight.hpp"
#include "engine/base/tensor.hpp"

namespace cogserve::cuda {

template <typename T>
struct Element {
  using Type = T;
};

// Calls `body(Element<T>())` with the activation type: bf16 or f16.
template <typename Body>
void with_activation(DType dtype, const Body& body) {
  check(dtype == DType::kBF16 || dtype == DType::kF16, "activations are bf16 or f16");
  if (dtype == DType::kBF16) return body(Element<__nv_bfloat16>());
  body(Element<__half>());
}

// The same with any float type.
template <typename Body>
void with_float(DType dtype, const Body& body) {
  if (dtype == DType::kF32) return body(Element<float>());
  with_activation(dtype, body);
}

// Calls `body(std::integral_constant<WeightFormat, ...>())` with the format of a quantised matrix.
template <typename Body>
void with_format(WeightFormat format, const Body& body) {
  switch (format) {
    case WeightFormat::kInt8:
      return body(std::integral_constant<WeightFormat, WeightFormat::kInt8>());
    case WeightFormat::kInt4:
      return body(std::integral_constant<WeightFormat, WeightFormat::kInt4>());
    case WeightFormat::kCodebook4:
      return body(std::integral_constant<WeightFormat, WeightFormat::kCodebook4>());
    case WeightFormat::kDense:
      check(false, "a dense matrix is not quantised");
  }
}

// Every row begins at a multiple of 16 bytes, and holds whole groups of 16 bytes.
inline bool rows_are_aligned(const Tensor& tensor) {
  const int64_t elements = 16 / static_cast<int64_t>(dtype_size(tensor.dtype));
  return reinterpret_cast<uintptr_t>(tensor.data) % 16 == 0 && tensor.cols % 8 == 0 &&
         tensor.row_stride % elements == 0;
}

inline unsigned ceil_div(int64_t a, int64_t b) { return static_cast<unsigned>((a + b - 1) / b); }

}  // namespace cogserve::cuda
