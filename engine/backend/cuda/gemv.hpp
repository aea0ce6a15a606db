// y = W x for a few rows of x: limited by the bytes of W, which are read once for 8 rows.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "engine/base/tensor.hpp"

namespace cogserve::cuda {

// Rows of x up to which the bytes of W are the limit, and gemv is the way.
inline constexpr int64_t kGemvRows = 8;

// x [rows, in] and w [out, in] (contiguous) are activations, y [rows, out] is that or f32, bias [1,
// out] is f32 or null. Any number of rows; each is summed in one order, whatever their number.
void gemv(const Tensor& x, const Tensor& w, const Tensor* bias, const Tensor& y,
          cudaStream_t stream);

// y = silu(gate x) * (up x), all of them activations: the bits of two products and silu_mul.
void gated_gemv(const Tensor& x, const Tensor& gate, const Tensor& up, const Tensor& y,
                cudaStream_t stream);

}  // namespace cogserve::cuda
