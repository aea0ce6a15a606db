// Matrices carved out of one allocation.
//
// Phases that never live at the same time may share bytes: `rewind` to where they start. Run once
// without memory, it tells the size to allocate; run again with it, the very same code lays it out.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "engine/base/tensor.hpp"

namespace cogserve {

class Workspace {
 public:
  // Without memory: the tensors are null, only `bytes` means anything.
  explicit Workspace(void* memory = nullptr) : memory_(static_cast<std::byte*>(memory)) {}

  Tensor take(DType dtype, int64_t rows, int64_t cols) {
    void* const data = memory_ == nullptr ? nullptr : memory_ + used_;
    const size_t bytes = static_cast<size_t>(rows * cols) * dtype_size(dtype);
    used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    peak_ = std::max(peak_, used_);
    return Tensor::matrix(data, dtype, rows, cols);
  }

  size_t mark() const { return used_; }
  void rewind(size_t mark) { used_ = mark; }

  size_t bytes() const { return peak_; }

 private:
  static constexpr size_t kAlignment = 64;

  std::byte* memory_;
  size_t used_ = 0;
  size_t peak_ = 0;
};

}  // namespace cogserve
