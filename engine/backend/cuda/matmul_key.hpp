// What a choice of a cuBLASLt algorithm is remembered under. Plain arithmetic: no CUDA here.
//
// Numbers of rows are put into classes, so that steps of every size need few choices and rows of
// nearby sizes are computed by the same kernel.
#pragma once

#include <compare>
#include <cstdint>
#include <initializer_list>

#include "engine/base/dtype.hpp"

namespace cogserve::cuda {

// One matrix product y [rows, out] = x [rows, in] W^T.
struct MatmulShape {
  int64_t rows = 0;
  int64_t in = 0;
  int64_t out = 0;
  int64_t x_stride = 0;
  int64_t y_stride = 0;
  DType y_dtype = DType::kBF16;
  bool bias = false;
  int alignment = 16;  // bytes, a power of two up to 16: what all rows begin at multiples of
};

struct MatmulKey {
  int64_t row_class = 0;
  int64_t in = 0;
  int64_t out = 0;
  int64_t x_stride = 0;
  int64_t y_stride = 0;
  DType y_dtype = DType::kBF16;
  bool bias = false;
  int alignment = 16;

  auto operator<=>(const MatmulKey&) const = default;
};

// The largest number of rows of the class: a power of two up to 1024, then multiples of 1024.
int64_t row_class(int64_t rows);

MatmulKey matmul_key(const MatmulShape& shape);

// The largest power of two up to 16 that divides all addresses and the rows' distances in bytes.
int common_alignment(std::initializer_list<uintptr_t> addresses,
                     std::initializer_list<int64_t> steps);

}  // namespace cogserve::cuda
