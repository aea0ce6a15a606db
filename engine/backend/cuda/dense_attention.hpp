// Full attention of one picture.
#pragma once

#include <cuda_runtime.h>

#include "engine/base/tensor.hpp"

namespace cogserve::cuda {

// See Backend. Tensor cores for head sizes 32, 64, 112 and 128 with aligned rows; a plain kernel
// for any other head size up to 256.
void dense_attention(const Tensor& qkv, int heads, int head_dim, float scale, const Tensor& y,
                     cudaStream_t stream);

}  // namespace cogserve::cuda
