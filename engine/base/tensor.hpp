// Views of arrays: `Tensor` in a backend's memory, `HostTensor` in a mapped checkpoint file.
//
// Both are plain values that own nothing. A forward pass needs matrices only, so a Tensor is
// always [rows, cols] with unit column stride; a vector is [1, n].
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "engine/base/dtype.hpp"

namespace cogserve {

struct Tensor {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t row_stride = 0;  // in elements

  static Tensor matrix(void* data, DType dtype, int64_t rows, int64_t cols) {
    return {data, dtype, rows, cols, cols};
  }

  template <typename T>
  T* row(int64_t index) const {
    return static_cast<T*>(data) + index * row_stride;
  }

  // Rows [begin, begin + count).
  Tensor slice_rows(int64_t begin, int64_t count) const {
    return {at(begin * row_stride), dtype, count, cols, row_stride};
  }

  // Columns [begin, begin + count) of every row.
  Tensor slice_cols(int64_t begin, int64_t count) const {
    return {at(begin), dtype, rows, count, row_stride};
  }

 private:
  void* at(int64_t elements) const {
    return static_cast<std::byte*>(data) + elements * static_cast<int64_t>(dtype_size(dtype));
  }
};

// A tensor as a checkpoint stores it: contiguous, little endian, any rank, read only, and without any
// alignment.
struct HostTensor {
  const std::byte* data = nullptr;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;

  int64_t elements() const {
    int64_t n = 1;
    for (int64_t dim : shape) n *= dim;
    return n;
  }
};

// Element `index` of a host tensor as f32 (exact for all three float types).
float host_value(const HostTensor& tensor, int64_t index);

// "[4096, 1792]"
std::string shape_string(const std::vector<int64_t>& shape);

}  // namespace cogserve
