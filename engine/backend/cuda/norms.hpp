// RMSNorm and LayerNorm by rows.
#pragma once

#include <cuda_runtime.h>

#include "engine/base/tensor.hpp"

namespace cogserve::cuda {

inline constexpr int64_t kMaxNormCols = 16384;

// x and y are activations [rows, cols], weight and bias f32 [1, cols]. See Backend.
void rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& y,
              cudaStream_t stream);
void add_rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& sum,
                  const Tensor& y, cudaStream_t stream);
void layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, float eps,
                const Tensor& y, cudaStream_t stream);
void add_layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, float eps,
                    const Tensor& y, cudaStream_t stream);

}  // namespace cogserve::cuda
