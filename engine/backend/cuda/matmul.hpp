// Matrix products of many rows, by cuBLASLt.
//
// The first product of each class of shapes (see matmul_key) times the library's candidates; the
// fastest is kept, unless the library refuses it later. So another start may choose, and round,
// otherwise. 2 * rows * in * out FLOP.
#pragma once

#include <cuda_runtime.h>

#include <memory>

#include "engine/backend/cuda/device_memory.hpp"
#include "engine/base/tensor.hpp"

namespace cogserve::cuda {

class Matmul {
 public:
  explicit Matmul(DType activation);
  ~Matmul();

  // x [rows, in] and w [out, in] (contiguous) are activations, y [rows, out] is that or f32. `bias`
  // [out], of y's dtype, may be null. False if the library has no algorithm for the shape; y may
  // hold anything then.
  bool run(const Tensor& x, const Tensor& w, const void* bias, const Tensor& y,
           const Stream& stream);

 private:
  class Library;
  std::unique_ptr<Library> library_;
};

}  // namespace cogserve::cuda
