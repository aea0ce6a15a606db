// Rotary positions for queries and keys, and the way of keys and values into the paged cache.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "engine/backend/cuda/paged_kv.hpp"
#include "engine/base/tensor.hpp"

namespace cogserve::cuda {

// See Backend. cos and sin are [positions, head_dim / 2] f32; `positions` and `slots` are arrays of
// the device with an entry for each row of qkv; a slot below 0 is kNoSlot.
void rope_and_store_kv(const Tensor& qkv, int heads, const int32_t* positions, const int64_t* slots,
                       const Tensor& cos, const Tensor& sin, const PagedKv& kv,
                       cudaStream_t stream);

}  // namespace cogserve::cuda
