// The pieces of attention by tensor cores, for one warp and 16 query rows at a time: scores of a
// tile of keys, one step of the online softmax, and the weighted sum of a tile of values.
//
// The score fragment of a lane (g = lane / 4, t = lane % 4) holds rows g and g + 8 and, of each
// group of 8 keys, keys 2t and 2t + 1; four lanes share a row. Tiles lie in shared memory with 16
// bytes of padding a row: an odd number of 16-byte chunks, so that the 8 rows of a matrix load meet
// no bank twice. Scores are kept in units of log2(e), for 2^x.
#pragma once

#include <bit>
#include <cstdint>

#include "engine/backend/cuda/numeric.cuh"
#include "engine/backend/cuda/ptx.cuh"

namespace cogserve::cuda {

inline constexpr float kLog2e = 1.4426950408889634f;

// A tile [kKeys, kDim] of keys or values in shared memory.
template <int kDim, int kKeys>
struct Tile {
  static_assert(kDim % 16 == 0 && kKeys % 16 == 0);
  static constexpr int kStride = kDim + 8;  // elements
  static constexpr int kElements = kKeys * kStride;
  static constexpr int kChunks = kDim / 8;  // 16-byte chunks of a row that are used
};

// What one warp knows of its 16 query rows; a lane has two of them.
template <int kDim>
struct QueryRows {
  uint32_t q[kDim / 16][4];  // fragments of q
  float out[kDim / 8][4];    // unnormalised sums of values
  float top[2];              // largest score so far
  float sum[2];              // this lane's share of the sum of weights
  int limit[2];              // keys that a row attends to
};

// A lane's part of two rows of q, straight from global memory; a null row is zero.
template <typename T, int kDim>
__device__ __forceinline__ void load_queries(const T* low, const T* high, QueryRows<kDim>& rows) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      const int at = step * 16 + part * 8 + t * 2;
      rows.q[step][2 * part] = 0;
      rows.q[step][2 * part + 1] = 0;
      if (low != nullptr) {
        rows.q[step][2 * part] = *reinterpret_cast<const uint32_t*>(low + at);
      }
      if (high != nullptr) {
        rows.q[step][2 * part + 1] = *reinterpret_cast<const uint32_t*>(high + at);
      }
    }
  }
#pragma unroll
  for (int n = 0; n < kDim / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) rows.out[n][i] = 0.0f;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    rows.top[i] = -INFINITY;
    rows.sum[i] = 0.0f;
  }
}

// A thread's part in copying a tile: one 16-byte chunk of every kStep-th row. Where they come from
// is found once for keys and values, whose rows lie alike.
template <int kDim, int kKeys, int kThreads>
struct TileShare {
  using Layout = Tile<kDim, kKeys>;
  // Threads of a row. A power of two, so that a thread keeps to one column; some may have no chunk.
  static constexpr int kRowThreads = std::bit_ceil(unsigned{Layout::kChunks});
  static constexpr int kStep = kThreads / kRowThreads;
  static constexpr int kCount = kKeys / kStep;
  static_assert(kKeys % kStep == 0);

  int64_t from[kCount];  // bytes
  int keys_left;         // from the thread's first row on

  // `offset(key)` is where key's row begins, in bytes, and `offset.base` a summand of it. Rows of
  // keys from `end` on become zero; until then they are the last row, which can be read.
  template <typename Offset>
  __device__ __forceinline__ void find(Offset offset, int first_key, int end) {
    const int first = first_key + static_cast<int>(threadIdx.x) / kRowThreads;
    keys_left = end - first;
    offset.base += threadIdx.x % kRowThreads * 16;
#pragma unroll
    for (int j = 0; j < kCount; ++j) from[j] = offset(min(first + j * kStep, end - 1));
  }

  // Starts the copies.
  template <typename T>
  __device__ __forceinline__ void copy(const T* array, T* tile) const {
    const int chunk = static_cast<int>(threadIdx.x) % kRowThreads;
    if (chunk >= Layout::kChunks) return;
    T* const to = tile + threadIdx.x / kRowThreads * Layout::kStride + chunk * 8;
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      ptx::copy_async_16(to + j * kStep * Layout::kStride, at_byte(array, from[j]),
                         j * kStep < keys_left);
    }
  }
};

// scores = q k^T for kKeys keys of a tile: 2 * 16 * kKeys * kDim FLOP.
template <typename T, int kDim, int kKeys>
__device__ __forceinline__ void multiply_keys(const QueryRows<kDim>& rows, const T* keys,
                                              float (&scores)[kKeys / 8][4]) {
  constexpr int kStride = Tile<kDim, kKeys>::kStride;
  const int lane = threadIdx.x % 32;
  // Matrices 0, 1: keys 0..7, elements 0..7 and 8..15; matrices 2, 3: keys 8..15.
  const T* const mine = keys + (lane / 16 * 8 + lane % 8) * kStride + lane / 8 % 2 * 8;
#pragma unroll
  for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[n][i] = 0.0f;
  }
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
#pragma unroll
    for (int n = 0; n < kKeys / 8; n += 2) {
      uint32_t b[4];
      ptx::ldmatrix_x4(b, mine + n * 8 * kStride + step * 16);
      const uint32_t first[2] = {b[0], b[1]};
      const uint32_t second[2] = {b[2], b[3]};
      ptx::mma_m16n8k16<T>(scores[n], rows.q[step], first);
      ptx::mma_m16n8k16<T>(scores[n + 1], rows.q[step], second);
    }
  }
}

// Turns scores into weights and rescales what was summed before. Keys from a row's limit on weigh
// exactly nothing, so a row does not notice how many of them its tile has.
template <int kDim, int kGroups>
__device__ __forceinline__ void softmax_step(float (&scores)[kGroups][4], int first_key,
                                             float scale_log2e, QueryRows<kDim>& rows) {
  const int t = threadIdx.x % 4;
  const bool cut = first_key + kGroups * 8 > min(rows.limit[0], rows.limit[1]);
  float top[2] = {rows.top[0], rows.top[1]};
#pragma unroll
  for (int n = 0; n < kGroups; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      scores[n][i] *= scale_log2e;
      if (cut && first_key + n * 8 + t * 2 + i % 2 >= rows.limit[i / 2]) scores[n][i] = -INFINITY;
      top[i / 2] = fmaxf(top[i / 2], scores[n][i]);
    }
  }
  float rescale[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    top[i] = fmaxf(top[i], __shfl_xor_sync(kAllLanes, top[i], 1));
    top[i] = fmaxf(top[i], __shfl_xor_sync(kAllLanes, top[i], 2));
    // A row without any key yet has nothing to rescale; -inf minus -inf would be NaN.
    rescale[i] = top[i] == -INFINITY ? 1.0f : ptx::exp2_approx(rows.top[i] - top[i]);
    rows.top[i] = top[i];
    rows.sum[i] *= rescale[i];
    if (top[i] == -INFINITY) top[i] = 0.0f;
  }
#pragma unroll
  for (int n = 0; n < kGroups; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      scores[n][i] = ptx::exp2_approx(scores[n][i] - top[i / 2]);
      rows.sum[i / 2] += scores[n][i];
    }
  }
  // Times 1 changes nothing: where no row of the warp has met a larger score, all are 1.
  if (__ballot_sync(kAllLanes, rescale[0] != 1.0f || rescale[1] != 1.0f) == 0) return;
#pragma unroll
  for (int n = 0; n < kDim / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) rows.out[n][i] *= rescale[i / 2];
  }
}

// out += weights v for kKeys values of a tile: 2 * 16 * kKeys * kDim FLOP.
template <typename T, int kDim, int kKeys>
__device__ __forceinline__ void add_values(const float (&weights)[kKeys / 8][4], const T* values,
                                           QueryRows<kDim>& rows) {
  constexpr int kStride = Tile<kDim, kKeys>::kStride;
  const int lane = threadIdx.x % 32;
  // Matrices 0, 1: keys 0..7 and 8..15, elements 0..7; matrices 2, 3: elements 8..15.
  const T* const mine = values + (lane / 8 % 2 * 8 + lane % 8) * kStride + lane / 16 * 8;
#pragma unroll
  for (int step = 0; step < kKeys / 16; ++step) {
    const auto& low = weights[2 * step];
    const auto& high = weights[2 * step + 1];
    const uint32_t a[4] = {pack_pair<T>(low[0], low[1]), pack_pair<T>(low[2], low[3]),
                           pack_pair<T>(high[0], high[1]), pack_pair<T>(high[2], high[3])};
#pragma unroll
    for (int n = 0; n < kDim / 8; n += 2) {
      uint32_t b[4];
      ptx::ldmatrix_x4_transposed(b, mine + step * 16 * kStride + n * 8);
      const uint32_t first[2] = {b[0], b[1]};
      const uint32_t second[2] = {b[2], b[3]};
      ptx::mma_m16n8k16<T>(rows.out[n], a, first);
      ptx::mma_m16n8k16<T>(rows.out[n + 1], a, second);
    }
  }
}

// Whole rows' sums of weights, from the shares of four lanes.
template <int kDim>
__device__ __forceinline__ void finish_sums(QueryRows<kDim>& rows) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    rows.sum[i] += __shfl_xor_sync(kAllLanes, rows.sum[i], 1);
    rows.sum[i] += __shfl_xor_sync(kAllLanes, rows.sum[i], 2);
  }
}

// Shared memory of attend(), in bytes: two stages of keys and values.
template <int kDim>
inline constexpr size_t kAttendBytes = size_t{4} * Tile<kDim, 64>::kElements * 2;

// All of attention for the 16 rows of each of a block's kThreads / 32 warps over keys [0, end), 64
// at a time in ascending order. While a tile is worked on the next one is on its way.
template <typename T, int kDim, int kThreads, typename Offset>
__device__ __forceinline__ void attend(const T* keys, const T* values, const Offset& offset,
                                       int end, float scale_log2e, T* shared,
                                       QueryRows<kDim>& rows) {
  constexpr int kKeys = 64;
  constexpr int kElements = Tile<kDim, kKeys>::kElements;
  const auto load = [&](int tile) {
    T* const stage = shared + tile % 2 * 2 * kElements;
    TileShare<kDim, kKeys, kThreads> share;
    share.find(offset, tile * kKeys, end);
    share.copy(keys, stage);
    share.copy(values, stage + kElements);
  };
  const int tiles = (end + kKeys - 1) / kKeys;
  load(0);
  ptx::commit_copies();
  for (int tile = 0; tile < tiles; ++tile) {
    if (tile + 1 < tiles) load(tile + 1);
    ptx::commit_copies();
    ptx::wait_copies<1>();
    __syncthreads();
    const T* const stage = shared + tile % 2 * 2 * kElements;
    float scores[kKeys / 8][4];
    multiply_keys<T, kDim, kKeys>(rows, stage, scores);
    softmax_step<kDim, kKeys / 8>(scores, tile * kKeys, scale_log2e, rows);
    add_values<T, kDim, kKeys>(scores, stage + kElements, rows);
    __syncthreads();
  }
  finish_sums<kDim>(rows);
}

// Writes a lane's part of its two rows; null rows are skipped.
template <typename T, int kDim>
__device__ __forceinline__ void store_rows(const QueryRows<kDim>& rows, T* low, T* high) {
  const int t = threadIdx.x % 4;
  T* const to[2] = {low, high};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (to[i] == nullptr) continue;
    const float scale = 1.0f / rows.sum[i];
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      *reinterpret_cast<uint32_t*>(to[i] + n * 8 + t * 2) =
          pack_pair<T>(rows.out[n][2 * i] * scale, rows.out[n][2 * i + 1] * scale);
    }
  }
}

}  // namespace cogserve::cuda
