// The pieces of attention by tensor cores: scores of a tile of keys, one step of the online
// softmax, and the weighted sum of a tile of values, for one warp and kParts times 16 query rows.
// What a warp reads of a tile in shared memory serves all its rows: 32 take half the bytes a
// product that 16 do.
//
// The score fragment of a lane (g = lane / 4, t = lane % 4) holds rows g and g + 8 and, of each
// group of 8 keys, keys 2t and 2t + 1; four lanes share a row. Tiles lie in shared memory with 16
// bytes of padding a row: an odd number of 16-byte chunks, so that the 8 rows of a matrix load meet
// no bank twice. Weights are 2^(scale_log2e * score), where scale_log2e > 0 is the scale of scores
// times log2(e).
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

// What one warp knows of 16 query rows; a lane has two of them.
template <int kDim>
struct QueryRows {
  uint32_t q[kDim / 16][4];  // fragments of q
  float out[kDim / 8][4];    // unnormalised sums of values
  float top[2];              // largest score so far, unscaled
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

// scores = q k^T for kKeys keys of a tile: 2 * 16 * kParts * kKeys * kDim FLOP.
template <typename T, int kDim, int kKeys, int kParts>
__device__ __forceinline__ void multiply_keys(const QueryRows<kDim> (&rows)[kParts], const T* keys,
                                              float (&scores)[kParts][kKeys / 8][4]) {
  constexpr int kStride = Tile<kDim, kKeys>::kStride;
  const int lane = threadIdx.x % 32;
  // Matrices 0, 1: keys 0..7, elements 0..7 and 8..15; matrices 2, 3: keys 8..15.
  const T* const mine = keys + (lane / 16 * 8 + lane % 8) * kStride + lane / 8 % 2 * 8;
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[part][n][i] = 0.0f;
    }
  }
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
#pragma unroll
    for (int n = 0; n < kKeys / 8; n += 2) {
      uint32_t b[4];
      ptx::ldmatrix_x4(b, mine + n * 8 * kStride + step * 16);
      const uint32_t first[2] = {b[0], b[1]};
      const uint32_t second[2] = {b[2], b[3]};
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        ptx::mma_m16n8k16<T>(scores[part][n], rows[part].q[step], first);
        ptx::mma_m16n8k16<T>(scores[part][n + 1], rows[part].q[step], second);
      }
    }
  }
}

// Turns scores into weights and rescales what was summed before. Keys from a row's limit on weigh
// exactly nothing, so a row does not notice how many of them its tile has.
template <int kDim, int kGroups>
__device__ __forceinline__ void softmax_step(float (&scores)[kGroups][4], int first_key,
                                             float scale_log2e, QueryRows<kDim>& rows) {
  const int t = threadIdx.x % 4;
  if (first_key + kGroups * 8 > min(rows.limit[0], rows.limit[1])) {
#pragma unroll
    for (int n = 0; n < kGroups; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (first_key + n * 8 + t * 2 + i % 2 >= rows.limit[i / 2]) scores[n][i] = -INFINITY;
      }
    }
  }
  float top[2] = {rows.top[0], rows.top[1]};
#pragma unroll
  for (int n = 0; n < kGroups; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) top[i / 2] = fmaxf(top[i / 2], scores[n][i]);
  }
  float rescale[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    top[i] = fmaxf(top[i], __shfl_xor_sync(kAllLanes, top[i], 1));
    top[i] = fmaxf(top[i], __shfl_xor_sync(kAllLanes, top[i], 2));
    // A row without any key yet has nothing to rescale; -inf minus -inf would be NaN.
    const bool none = top[i] == -INFINITY;
    rescale[i] = none ? 1.0f : ptx::exp2_approx((rows.top[i] - top[i]) * scale_log2e);
    rows.top[i] = top[i];
    rows.sum[i] *= rescale[i];
    top[i] = none ? 0.0f : top[i] * scale_log2e;
  }
#pragma unroll
  for (int n = 0; n < kGroups; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      scores[n][i] = ptx::exp2_approx(fmaf(scores[n][i], scale_log2e, -top[i / 2]));
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

// out += weights v for kKeys values of a tile: 2 * 16 * kParts * kKeys * kDim FLOP.
template <typename T, int kDim, int kKeys, int kParts>
__device__ __forceinline__ void add_values(const float (&weights)[kParts][kKeys / 8][4],
                                           const T* values, QueryRows<kDim> (&rows)[kParts]) {
  constexpr int kStride = Tile<kDim, kKeys>::kStride;
  const int lane = threadIdx.x % 32;
  // Matrices 0, 1: keys 0..7 and 8..15, elements 0..7; matrices 2, 3: elements 8..15.
  const T* const mine = values + (lane / 8 % 2 * 8 + lane % 8) * kStride + lane / 16 * 8;
#pragma unroll
  for (int step = 0; step < kKeys / 16; ++step) {
    uint32_t a[kParts][4];
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* const pair = &weights[part][2 * step + i / 2][i % 2 * 2];
        a[part][i] = pack_pair<T>(pair[0], pair[1]);
      }
    }
#pragma unroll
    for (int n = 0; n < kDim / 8; n += 2) {
      uint32_t b[4];
      ptx::ldmatrix_x4_transposed(b, mine + step * 16 * kStride + n * 8);
      const uint32_t first[2] = {b[0], b[1]};
      const uint32_t second[2] = {b[2], b[3]};
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        ptx::mma_m16n8k16<T>(rows[part].out[n], a[part], first);
        ptx::mma_m16n8k16<T>(rows[part].out[n + 1], a[part], second);
      }
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

inline constexpr int kAttendKeys = 32;

// Shared memory of attend(), in bytes: two stages of keys and values.
template <int kDim>
inline constexpr size_t kAttendBytes = size_t{4} * Tile<kDim, kAttendKeys>::kElements * 2;

// All of attention for the rows of each of a block's kThreads / 32 warps over keys [0, end), 32 at
// a time in ascending order. While a tile is worked on the next one is on its way. A warp that is
// `idle`, without any row, only helps to copy.
template <typename T, int kDim, int kThreads, int kParts, typename Offset>
__device__ __forceinline__ void attend(const T* keys, const T* values, const Offset& offset,
                                       int end, float scale_log2e, bool idle, T* shared,
                                       QueryRows<kDim> (&rows)[kParts]) {
  constexpr int kKeys = kAttendKeys;
  constexpr int kElements = Tile<kDim, kKeys>::kElements;
  const auto load = [&](int tile) {
    T* const stage = shared + tile % 2 * 2 * kElements;
    TileShare<kDim, kKeys, kThreads> share;
    share.find(offset, tile * kKeys, end);
    share.copy(keys, stage);
    share.copy(values, stage + kElements);
    ptx::commit_copies();
  };
  const int tiles = (end + kKeys - 1) / kKeys;
  load(0);
  for (int tile = 0; tile < tiles; ++tile) {
    ptx::wait_copies<0>();
    __syncthreads();  // the tile is there, and all warps are done with the other stage
    if (tile + 1 < tiles) load(tile + 1);
    if (idle) continue;
    const T* const stage = shared + tile % 2 * 2 * kElements;
    float scores[kParts][kKeys / 8][4];
    multiply_keys<T, kDim, kKeys>(rows, stage, scores);
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      softmax_step<kDim, kKeys / 8>(scores[part], tile * kKeys, scale_log2e, rows[part]);
    }
    add_values<T, kDim, kKeys>(scores, stage + kElements, rows);
  }
#pragma unroll
  for (int part = 0; part < kParts; ++part) finish_sums<kDim>(rows[part]);
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
