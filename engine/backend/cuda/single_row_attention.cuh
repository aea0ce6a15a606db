// Attention of one query row and one head by one warp, for head sizes that do not suit tensor
// cores.
#pragma once

#include "engine/backend/cuda/numeric.cuh"

namespace cogserve::cuda {

inline constexpr int kSingleRowPerLane = 8;  // head sizes up to 256

// Keys [0, end) one by one in ascending order; a lane has elements lane, lane + 32, ... of the
// head. `offset(key)` is where key's row begins in keys and in values, in bytes. 4 * head_dim bytes
// of keys and values read, and 4 * head_dim FLOP, for each key.
template <typename T, typename Offset>
__device__ __forceinline__ void attend_single_row(const T* q, const T* keys, const T* values,
                                                  const Offset& offset, int end, int head_dim,
                                                  float scale_log2e, T* y) {
  const int lane = threadIdx.x % 32;
  float query[kSingleRowPerLane], out[kSingleRowPerLane];
#pragma unroll
  for (int i = 0; i < kSingleRowPerLane; ++i) {
    const int at = lane + 32 * i;
    query[i] = at < head_dim ? widen(q[at]) : 0.0f;
    out[i] = 0.0f;
  }
  float top = -INFINITY;
  float sum = 0.0f;
  for (int key = 0; key < end; ++key) {
    const int64_t row = offset(key);
    const T* const key_row = at_byte(keys, row);
    const T* const value_row = at_byte(values, row);
    float product = 0.0f;
#pragma unroll
    for (int i = 0; i < kSingleRowPerLane; ++i) {
      const int at = lane + 32 * i;
      if (at < head_dim) product = fmaf(query[i], widen(key_row[at]), product);
    }
    const float score = warp_sum(product) * scale_log2e;
    const float new_top = fmaxf(top, score);
    const float rescale = exp2f(top - new_top);
    const float weight = exp2f(score - new_top);
    top = new_top;
    sum = fmaf(sum, rescale, weight);
#pragma unroll
    for (int i = 0; i < kSingleRowPerLane; ++i) {
      const int at = lane + 32 * i;
      if (at < head_dim) out[i] = fmaf(weight, widen(value_row[at]), out[i] * rescale);
    }
  }
#pragma unroll
  for (int i = 0; i < kSingleRowPerLane; ++i) {
    const int at = lane + 32 * i;
    if (at < head_dim) y[at] = narrow<T>(out[i] / sum);
  }
}

}  // namespace cogserve::cuda
