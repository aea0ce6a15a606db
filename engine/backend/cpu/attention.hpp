// Attention over the paged cache and over a whole picture, by one kernel.
//
// Scores exist for 96 query rows x 64 keys at a time: a running maximum and sum per row (online
// softmax) make whole score matrices unnecessary. Keys are always taken in tiles of 64 by absolute
// index, in ascending order, so a row's bits depend neither on how its run is cut nor on company.
// Work: 4 * head_dim FLOP for each pair of query row and key.
#pragma once

#include <cstdint>
#include <span>

#include "engine/backend/backend.hpp"
#include "engine/backend/cpu/thread_pool.hpp"
#include "engine/backend/cpu/workspace.hpp"

namespace cogserve::cpu {

// See Backend::paged_attention. The cache is f32 here.
void paged_attention(const Tensor& q, int heads, std::span<const AttentionRun> runs,
                     std::span<const int32_t> block_tables, const KvLayer& kv, float scale,
                     const Tensor& y, Workspace& workspace, ThreadPool& pool);

// See Backend::dense_attention.
void dense_attention(const Tensor& qkv, int heads, int head_dim, float scale, const Tensor& y,
                     Workspace& workspace, ThreadPool& pool);

}  // namespace cogserve::cpu
