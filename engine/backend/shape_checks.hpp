// What every backend asks of the tensors that it is given. A broken shape is a broken invariant.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "engine/backend/backend.hpp"
#include "engine/base/tensor.hpp"

namespace cogserve {

inline bool is_f32(const Tensor& tensor) { return tensor.dtype == DType::kF32; }

inline bool is_float(const Tensor& tensor) { return tensor.dtype != DType::kI32; }

inline bool same_shape(const Tensor& a, const Tensor& b) {
  return a.rows == b.rows && a.cols == b.cols;
}

// A [1, n] parameter for tensors with n columns.
inline bool is_vector_for(const Tensor& vector, const Tensor& tensor) {
  return is_f32(vector) && vector.rows == 1 && vector.cols == tensor.cols;
}

inline size_t row_bytes(const Tensor& tensor) { return tensor.cols * dtype_size(tensor.dtype); }

// Positions are below `limit` and slots kNoSlot or within the cache, else InvariantError.
void check_rope_rows(std::span<const int32_t> positions, std::span<const int64_t> slots,
                     int64_t limit, const KvLayer& kv);

// Penalties of a row to sample know every id, else InvariantError.
void check_penalties(const SampleRow& row);

// Runs of paged_attention lie within `rows`, their block tables within `block_tables`, and the
// blocks within the cache; else InvariantError.
void check_runs(std::span<const AttentionRun> runs, std::span<const int32_t> block_tables,
                const KvLayer& kv, int64_t rows);

}  // namespace cogserve
