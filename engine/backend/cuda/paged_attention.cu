#include "engine/backend/cuda/paged_attention.hpp"

#include <bit>

#include "engine/backend/cuda/attention_tile.cuh"
#include "engine/backend/cuda/dispatch.hpp"
#include "engine/backend/cuda/launch.cuh"
#include "engine/backend/cuda/single_row_attention.cuh"

namespace cogserve::cuda {
namespace {

// --- kernels ------------------------------------------------------------------------------------

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kWarpRows = 16;

// What lies where in the cache, in bytes. For every key >= 0, key / block_size is
// 2 key inverse / 2^(32 + shift): see cache_shape.
struct CacheShape {
  uint32_t block_size;
  uint32_t inverse;
  uint32_t shift;
  uint32_t row_bytes;
  uint32_t head_bytes;   // block_size rows
  uint32_t block_bytes;  // of all heads
};

template <typename T>
struct PagedArguments {
  const T* q;
  int64_t q_stride;
  T* y;
  int64_t y_stride;
  const T* keys;
  const T* values;
  const int32_t* block_tables;
  CacheShape cache;
  int heads;
  int group;  // query heads of a KV head
  int head_dim;
  float scale_log2e;
};

// Where the rows of one sequence and one KV head begin in the cache, in bytes. By unsigned numbers,
// whose 64-bit products take fewer instructions than those of signed ones.
struct PagedOffset {
  CacheShape cache;
  const int32_t* tables;
  uint32_t table_begin;
  int64_t base;

  __device__ __forceinline__ int64_t operator()(int index) const {
    const auto key = static_cast<uint32_t>(index);
    const uint32_t block = __umulhi(2 * key, cache.inverse) >> cache.shift;
    const auto id = static_cast<uint32_t>(tables[table_begin + block]);
    const uint64_t in_block = uint64_t{key - block * cache.block_size} * cache.row_bytes;
    return base + static_cast<int64_t>(uint64_t{id} * cache.block_bytes + in_block);
  }
};

template <typename T>
__device__ __forceinline__ PagedOffset paged_offset(const PagedArguments<T>& a, int table_begin,
                                                    int kv_head) {
  return {a.cache, a.block_tables, static_cast<uint32_t>(table_begin),
          static_cast<int64_t>(kv_head * a.cache.head_bytes)};
}

// Blocks that a processor's registers are to have room for: none spills in the loop over keys.
constexpr int prefill_blocks(int head_dim) {
  if (head_dim > 64) return 3;
  return head_dim > 32 ? 4 : 5;
}

// A block takes up to 64 query rows: the tokens of a tile times the heads of one group, which share
// keys and values. 4 * kDim FLOP a pair of row and key; 4 * kDim bytes a key for the whole block.
template <typename T, int kDim>
__global__ void __launch_bounds__(kThreads, prefill_blocks(kDim))
    prefill_kernel(PagedArguments<T> a, const PrefillTile* tiles) {
  ptx::begin_kernel();
  const PrefillTile tile = tiles[blockIdx.x];
  const int kv_head = blockIdx.y;
  QueryRows<kDim> rows[1];
  int places[2];  // row * heads + head of a lane's two rows; -1: none
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int packed =
        static_cast<int>(threadIdx.x) / 32 * kWarpRows + threadIdx.x % 32 / 4 + 8 * i;
    const int token = packed / a.group;
    const int head = kv_head * a.group + packed % a.group;
    places[i] = token < tile.tokens ? (tile.row + token) * a.heads + head : -1;
    rows[0].limit[i] = tile.first_index + min(token, tile.tokens - 1) + 1;
  }
  // Taken apart again for y, because the loop over keys has no registers to keep pointers in.
  const auto at = [&](auto* array, int64_t stride, int place) {
    return place < 0 ? nullptr : array + place / a.heads * stride + place % a.heads * kDim;
  };
  load_queries<T, kDim>(at(a.q, a.q_stride, places[0]), at(a.q, a.q_stride, places[1]), rows[0]);
  const bool idle = static_cast<int>(threadIdx.x) / 32 * kWarpRows >= tile.tokens * a.group;
  attend<T, kDim, kThreads>(a.keys, a.values, paged_offset(a, tile.table_begin, kv_head),
                            tile.first_index + tile.tokens, a.scale_log2e, idle, shared_memory<T>(),
                            rows);
  store_rows<T, kDim>(rows[0], at(a.y, a.y_stride, places[0]), at(a.y, a.y_stride, places[1]));
}

// What a split leaves for one head: the unnormalised sum, the largest score times scale_log2e, the
// sum of weights.
constexpr int split_floats(int head_dim) { return head_dim + 2; }

template <int kDim>
struct DecodeShared {
  static constexpr int kTile = Tile<kDim, kSplitKeys>::kElements;
  static constexpr size_t kBytes = size_t{2} * kTile * 2;  // keys and values
  static constexpr int kStateFloats = kWarps * kWarpRows * (kDim + 2);
  // The warps' results take the place of the keys.
  static_assert(kStateFloats * sizeof(float) <= kTile * size_t{2});
};

// Leaves the first `count` of a warp's rows in shared memory: [kWarps, kWarpRows, kDim], then tops,
// then sums.
template <int kDim>
__device__ __forceinline__ void share_rows(const QueryRows<kDim>& rows, int count,
                                           float scale_log2e, float* state) {
  const int warp = threadIdx.x / 32;
  const int g = threadIdx.x % 32 / 4;
  const int t = threadIdx.x % 4;
  float* const tops = state + kWarps * kWarpRows * kDim;
  float* const sums = tops + kWarps * kWarpRows;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (g + 8 * i >= count) continue;
    const int row = warp * kWarpRows + g + 8 * i;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      state[row * kDim + n * 8 + t * 2] = rows.out[n][2 * i];
      state[row * kDim + n * 8 + t * 2 + 1] = rows.out[n][2 * i + 1];
    }
    if (t == 0) {
      tops[row] = rows.top[i] * scale_log2e;
      sums[row] = rows.sum[i];
    }
  }
}

// One split of one row and one KV head: up to 16 heads of its group fill the 16 rows of a matrix
// product; each warp takes 32 of the 128 keys, and the four results are added in ascending order.
// Limited by memory: 4 * kDim bytes a key.
template <typename T, int kDim>
__device__ __forceinline__ void attend_split(const PagedArguments<T>& a, const DecodeSplit& split,
                                             float* results) {
  constexpr int kWarpKeys = kSplitKeys / kWarps;
  using Shared = DecodeShared<kDim>;
  T* const keys = shared_memory<T>();
  T* const values = keys + Shared::kTile;
  const int kv_head = blockIdx.y;
  const int first_head = blockIdx.z * kWarpRows;  // within the group
  TileShare<kDim, kSplitKeys, kThreads> share;
  share.find(paged_offset(a, split.table_begin, kv_head), split.first_key, split.keys);
  share.copy(a.keys, keys);
  ptx::commit_copies();
  share.copy(a.values, values);
  ptx::commit_copies();

  QueryRows<kDim> rows[1];
  const T* const q = a.q + split.row * a.q_stride + kv_head * a.group * kDim;
  const int heads = min(a.group - first_head, kWarpRows);
  const int g = threadIdx.x % 32 / 4;
  rows[0].limit[0] = split.keys;
  rows[0].limit[1] = split.keys;
  load_queries<T, kDim>(g < heads ? q + (first_head + g) * kDim : nullptr,
                        g + 8 < heads ? q + (first_head + g + 8) * kDim : nullptr, rows[0]);
  const int warp_key = static_cast<int>(threadIdx.x) / 32 * kWarpKeys;
  float scores[1][kWarpKeys / 8][4];
  ptx::wait_copies<1>();
  __syncthreads();
  multiply_keys<T, kDim, kWarpKeys>(rows, keys + warp_key * Tile<kDim, kSplitKeys>::kStride,
                                    scores);
  softmax_step<kDim, kWarpKeys / 8>(scores[0], split.first_key + warp_key, a.scale_log2e, rows[0]);
  ptx::wait_copies<0>();
  __syncthreads();  // the values are there, and all warps are done with the keys
  add_values<T, kDim, kWarpKeys>(scores, values + warp_key * Tile<kDim, kSplitKeys>::kStride, rows);
  finish_sums<kDim>(rows[0]);
  float* const state = shared_memory<float>();
  share_rows<kDim>(rows[0], heads, a.scale_log2e, state);
  __syncthreads();
  const float* const tops = state + kWarps * kWarpRows * kDim;
  const float* const sums = tops + kWarps * kWarpRows;
  for (int i = threadIdx.x; i < heads * kDim; i += kThreads) {
    const int head = i / kDim;
    float top = -INFINITY;
    for (int warp = 0; warp < kWarps; ++warp) top = fmaxf(top, tops[warp * kWarpRows + head]);
    float out = 0.0f;
    float sum = 0.0f;
    for (int warp = 0; warp < kWarps; ++warp) {
      const int row = warp * kWarpRows + head;
      const float weight = ptx::exp2_approx(tops[row] - top);
      out = fmaf(weight, state[row * kDim + i % kDim], out);
      sum = fmaf(weight, sums[row], sum);
    }
    float* const result = results + (kv_head * a.group + first_head + head) * split_floats(kDim);
    result[i % kDim] = out;
    if (i % kDim == 0) {
      result[kDim] = top;
      result[kDim + 1] = sum;
    }
  }
}

// A block takes every gridDim.x-th split: the number of splits is read here, so that a grid that
// was fixed once does for any number.
template <typename T, int kDim>
__global__ __launch_bounds__(kThreads) void decode_kernel(PagedArguments<T> a,
                                                          const DecodeSplit* splits,
                                                          const int32_t* split_count,
                                                          float* scratch) {
  ptx::begin_kernel();
  const int count = *split_count;
  const int64_t step = static_cast<int64_t>(a.heads) * split_floats(kDim);
  for (int i = blockIdx.x; i < count; i += gridDim.x) {
    attend_split<T, kDim>(a, splits[i], scratch + i * step);
    __syncthreads();  // the next split overwrites shared memory
  }
}

// One block a row and head: the splits' results in ascending order. 4 * (head_dim + 2) bytes a
// split.
template <typename T>
__global__ __launch_bounds__(kThreads) void merge_kernel(PagedArguments<T> a,
                                                         const DecodeMerge* merges,
                                                         const float* scratch) {
  ptx::begin_kernel();
  const DecodeMerge merge = merges[blockIdx.x];
  const int head = blockIdx.y;
  const int floats = split_floats(a.head_dim);
  const int64_t step = static_cast<int64_t>(a.heads) * floats;
  const float* const first = scratch + merge.split_begin * step + head * floats;
  float top = -INFINITY;
  for (int i = 0; i < merge.splits; ++i) top = fmaxf(top, first[i * step + a.head_dim]);
  float sum = 0.0f;
  float out[2] = {0.0f, 0.0f};
#pragma unroll 8
  for (int i = 0; i < merge.splits; ++i) {
    const float* const split = first + i * step;
    const float weight = ptx::exp2_approx(split[a.head_dim] - top);
    sum = fmaf(weight, split[a.head_dim + 1], sum);
    for (int part = 0; part < 2; ++part) {
      const int at = threadIdx.x + part * kThreads;
      if (at < a.head_dim) out[part] = fmaf(weight, split[at], out[part]);
    }
  }
  for (int part = 0; part < 2; ++part) {
    const int at = threadIdx.x + part * kThreads;
    if (at < a.head_dim) {
      a.y[merge.row * a.y_stride + head * a.head_dim + at] = narrow<T>(out[part] / sum);
    }
  }
}

// One warp a row and head; see attend_single_row.
template <typename T>
__global__ __launch_bounds__(kThreads) void single_row_kernel(PagedArguments<T> a,
                                                              const SingleRow* rows) {
  ptx::begin_kernel();
  const SingleRow row = rows[blockIdx.x];
  const int head = static_cast<int>(blockIdx.y) * kWarps + threadIdx.x / 32;
  if (head >= a.heads) return;
  const int column = head * a.head_dim;
  attend_single_row(a.q + row.row * a.q_stride + column, a.keys, a.values,
                    paged_offset(a, row.table_begin, head / a.group), row.keys, a.head_dim,
                    a.scale_log2e, a.y + row.row * a.y_stride + column);
}

// --- launchers ----------------------------------------------------------------------------------

// With 2^shift >= block_size, the least such, inverse is 2^(31 + shift) / block_size, rounded up:
// below 2^32, and more than the quotient by less than 1. So the kernels' quotient is more than key
// / block_size by less than key / 2^(31 + shift) < 1 / block_size: rounded down, they are equal.
CacheShape cache_shape(const PagedKv& kv) {
  const auto block_size = static_cast<uint32_t>(kv.block_size);
  const uint32_t shift = std::bit_width(block_size - 1);
  const uint64_t power = uint64_t{1} << (31 + shift);
  const uint64_t row_bytes = kv.head_dim * dtype_size(kv.dtype);
  const uint64_t block_bytes = row_bytes * block_size * kv.kv_heads;
  check(block_bytes >> 32 == 0, "paged_attention: a layer's block is below 4 GiB");
  return {block_size,
          static_cast<uint32_t>((power + block_size - 1) / block_size),
          shift,
          static_cast<uint32_t>(row_bytes),
          static_cast<uint32_t>(row_bytes * block_size),
          static_cast<uint32_t>(block_bytes)};
}

template <typename T>
PagedArguments<T> arguments_of(const PagedAttention& attention) {
  const PagedKv& kv = attention.kv;
  return {attention.q.row<T>(0),
          attention.q.row_stride,
          attention.y.row<T>(0),
          attention.y.row_stride,
          static_cast<const T*>(kv.keys),
          static_cast<const T*>(kv.values),
          attention.block_tables,
          cache_shape(kv),
          attention.heads,
          attention.heads / kv.kv_heads,
          kv.head_dim,
          attention.scale * kLog2e};
}

// Calls `body(Element<T>(), std::integral_constant<int, head_dim>())`.
template <typename Body>
void with_head_dim(const PagedAttention& attention, const Body& body) {
  with_activation(attention.q.dtype, [&](auto element) {
    switch (attention.kv.head_dim) {
      case 32:
        return body(element, std::integral_constant<int, 32>());
      case 64:
        return body(element, std::integral_constant<int, 64>());
      case 112:
        return body(element, std::integral_constant<int, 112>());
      case 128:
        return body(element, std::integral_constant<int, 128>());
    }
    check(false, "paged_attention: a head size of the tensor core kernels");
  });
}

}  // namespace

bool has_tensor_core_kernel(const HeadShape& heads) {
  const int dim = heads.head_dim;
  const bool known = dim == 32 || dim == 64 || dim == 112 || dim == 128;
  return known && heads.query_heads / heads.kv_heads <= kPrefillRows;
}

bool fits_tensor_cores(const PagedAttention& attention) {
  const PagedKv& kv = attention.kv;
  return has_tensor_core_kernel({attention.heads, kv.kv_heads, kv.head_dim}) &&
         rows_are_aligned(attention.q) && rows_are_aligned(attention.y) &&
         reinterpret_cast<uintptr_t>(kv.keys) % 16 == 0 &&
         reinterpret_cast<uintptr_t>(kv.values) % 16 == 0;
}

void attend_prefill(const PagedAttention& attention, const PrefillTile* tiles, int count,
                    cudaStream_t stream) {
  if (count == 0) return;
  with_head_dim(attention, [&](auto element, auto head_dim) {
    using T = typename decltype(element)::Type;
    constexpr int kDim = decltype(head_dim)::value;
    launch("paged_attention (prefill)",
           {dim3(count, attention.kv.kv_heads), dim3(kThreads), kAttendBytes<kDim>}, stream,
           prefill_kernel<T, kDim>, arguments_of<T>(attention), tiles);
  });
}

size_t split_bytes(int heads, int head_dim) {
  return size_t{sizeof(float)} * heads * split_floats(head_dim);
}

void attend_decode(const PagedAttention& attention, const DecodeWaveArrays& wave, float* scratch,
                   cudaStream_t stream) {
  with_head_dim(attention, [&](auto element, auto head_dim) {
    using T = typename decltype(element)::Type;
    constexpr int kDim = decltype(head_dim)::value;
    const PagedArguments<T> arguments = arguments_of<T>(attention);
    const dim3 grid(wave.grid, attention.kv.kv_heads, ceil_div(arguments.group, kWarpRows));
    launch("paged_attention (decode)", {grid, dim3(kThreads), DecodeShared<kDim>::kBytes}, stream,
           decode_kernel<T, kDim>, arguments, wave.splits, wave.split_count, scratch);
    launch("paged_attention (merge)", {dim3(wave.merge_count, attention.heads), dim3(kThreads), 0},
           stream, merge_kernel<T>, arguments, wave.merges, scratch);
  });
}

int split_grid(const HeadShape& heads, int processors) {
  constexpr int kBlocksOfAProcessor = 4;  // more than have room at a time
  const int groups = static_cast<int>(ceil_div(heads.query_heads / heads.kv_heads, kWarpRows));
  return static_cast<int>(ceil_div(processors * kBlocksOfAProcessor, heads.kv_heads * groups));
}

void attend_single_rows(const PagedAttention& attention, const SingleRow* rows, int count,
                        cudaStream_t stream) {
  if (count == 0) return;
  check(attention.kv.head_dim <= kMaxHeadDim, "paged_attention: head_dim is at most 256");
  with_activation(attention.q.dtype, [&](auto element) {
    using T = typename decltype(element)::Type;
    launch("paged_attention (any head size)",
           {dim3(count, ceil_div(attention.heads, kWarps)), dim3(kThreads), 0}, stream,
           single_row_kernel<T>, arguments_of<T>(attention), rows);
  });
}

}  // namespace cogserve::cuda
