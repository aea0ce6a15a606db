// Causal grouped-head attention over the paged cache: the launchers. What each block does was
// decided by attention_plan on the host; the arrays here are the device's copies of it.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "engine/backend/cuda/attention_plan.hpp"
#include "engine/backend/cuda/paged_kv.hpp"
#include "engine/base/tensor.hpp"

namespace cogserve::cuda {

// Query rows (tokens times heads of a group) of a prefill block.
inline constexpr int kPrefillRows = 64;

// What all kernels of one call share. q and y are [rows, heads * head_dim].
struct PagedAttention {
  Tensor q;
  Tensor y;
  int heads = 0;
  PagedKv kv;
  const int32_t* block_tables = nullptr;  // device
  float scale = 0.0f;
};

// Heads of one layer.
struct HeadShape {
  int query_heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
};

// True if there is a kernel on tensor cores for this shape.
bool has_tensor_core_kernel(const HeadShape& heads);
// True if head size, group size and alignment suit the kernels on tensor cores (head size 32, 64,
// 112 or 128); else attend_single_rows does the work.
bool fits_tensor_cores(const PagedAttention& attention);

// 4 * head_dim FLOP for each pair of query row and key (of whole tiles).
void attend_prefill(const PagedAttention& attention, const PrefillTile* tiles, int count,
                    cudaStream_t stream);

// f32 results of splits, before they are merged: `split_bytes` for each split.
size_t split_bytes(int heads, int head_dim);
// The arrays of a DecodeWave; `grid` blocks (of each KV head) share its splits among them.
struct DecodeWaveArrays {
  const DecodeSplit* splits = nullptr;
  const int32_t* split_count = nullptr;  // one number, on the device
  const DecodeMerge* merges = nullptr;
  int merge_count = 0;
  int grid = 0;
};
void attend_decode(const PagedAttention& attention, const DecodeWaveArrays& wave, float* scratch,
                   cudaStream_t stream);
// A grid for any number of splits: enough blocks to keep `processors` busy.
int split_grid(const HeadShape& heads, int processors);

// Any even or odd head size up to kMaxHeadDim.
inline constexpr int kMaxHeadDim = 256;
void attend_single_rows(const PagedAttention& attention, const SingleRow* rows, int count,
                        cudaStream_t stream);

}  // namespace cogserve::cuda
