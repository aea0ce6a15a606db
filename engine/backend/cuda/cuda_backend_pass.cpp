// CudaBackend's passes, the operations that are given arrays of the host, and sampling.
#include "absl/cleanup/cleanup.h"
#include "engine/backend/cuda/cuda_backend.hpp"
#include "engine/backend/cuda/dense_attention.hpp"
#include "engine/backend/cuda/elementwise.hpp"
#include "engine/backend/cuda/error.hpp"
#include "engine/backend/cuda/own_memory.hpp"
#include "engine/backend/cuda/rope_kv.hpp"
#include "engine/backend/shape_checks.hpp"
#include "engine/base/check.hpp"

namespace cogserve {

void CudaBackend::run_pass(const PassInput& input, absl::FunctionRef<void()> pass) {
  bind_thread();
  parcel_.clear();
  auto* const memory = static_cast<std::byte*>(pass_memory_.get());
  const absl::Cleanup end = [this] { pass_.end(); };
  pass_.begin(input, cuda::kAttentionScratchBytes, memory, &parcel_);
  check(parcel_.bytes().size() <= staging_.max_bytes(), "the arrays of a pass fit into its memory");
  write(memory, parcel_.bytes().data(), parcel_.bytes().size());
  if (input.recurring == 0 || !pass_.recurs()) return pass();
  const auto rows = static_cast<int64_t>(input.token_ids.size());
  switch (graphs_.way_of(input.recurring, rows, sampler_.drawn_ids())) {
    case cuda::PassGraphs::Way::kRun:
      return pass();
    case cuda::PassGraphs::Way::kRecord:
      return record_pass(rows, pass);
    case cuda::PassGraphs::Way::kReplay:
      check_repeated(input, graphs_.find(rows).limits());
      return graphs_.find(rows).launch(stream_);
  }
}

void CudaBackend::record_pass(int64_t rows, absl::FunctionRef<void()> pass) {
  const cuda::PassGraph* graph = nullptr;
  try {
    graph = &graphs_.record(rows, stream_, pass);
  } catch (const cuda::CudaError& error) {
    graphs_.give_up();
    notice(std::string("decode steps are launched kernel by kernel: ") + error.what());
    return pass();
  }
  graph->launch(stream_);
}

// What the operations of the pass would have checked.
void CudaBackend::check_repeated(const PassInput& input, const cuda::PassLimits& limits) const {
  check_ids(input.token_ids, limits.token_ids);
  check_rope_rows(input.positions, input.slots, limits.positions, limits.kv);
  check_runs(input.runs, input.block_tables, limits.kv,
             static_cast<int64_t>(input.token_ids.size()));
}

void CudaBackend::check_ids(std::span<const int32_t> ids, int64_t limit) const {
  for (int32_t id : ids) {
    check(id < limit, "embed: id beyond the table");
    check(id >= kNoToken || drawn_row(id) < sampler_.drawn_rows(),
          "embed: a row of the newest draw");
  }
}

// A copy would be recorded with the host's memory as it is now, and with the ring's events.
void CudaBackend::check_not_recording() const {
  if (graphs_.recording() == nullptr) return;
  throw cuda::CudaError("an array of the host that is not one of the pass's");
}

const std::byte* CudaBackend::send() {
  check_not_recording();
  return staging_.send(parcel_);
}

const int32_t* CudaBackend::on_device(std::span<const int32_t> array) {
  if (const int32_t* const copy = pass_.find(array)) return copy;
  parcel_.clear();
  parcel_.add(array);
  return cuda::Staging::at<int32_t>(send(), 0);
}

void CudaBackend::embed(const Tensor& table, std::span<const int32_t> ids, const Tensor& y) {
  check(is_float(table) && is_activation(y) && table.cols == y.cols,
        "embed: table and y do not fit");
  check(static_cast<int64_t>(ids.size()) == y.rows, "embed: one id for each row");
  check_ids(ids, table.rows);
  if (cuda::PassLimits* const limits = graphs_.recording()) limits->token_ids = table.rows;
  bind_thread();
  cuda::copy_rows(table, {on_device(ids), sampler_.drawn_ids()}, y, stream_.get());
}

void CudaBackend::gather_rows(const Tensor& x, std::span<const int32_t> rows, const Tensor& y) {
  check(is_activation(x) && is_activation(y) && x.cols == y.cols,
        "gather_rows: x and y do not fit");
  check(static_cast<int64_t>(rows.size()) == y.rows, "gather_rows: one index for each row");
  for (int32_t row : rows) check(row >= 0 && row < x.rows, "gather_rows: index out of range");
  bind_thread();
  cuda::copy_rows(x, {on_device(rows)}, y, stream_.get());
}

cuda::PagedKv CudaBackend::view(const KvLayer& kv) const {
  return {kv.keys, kv.values, kv.dtype, kv.kv_heads, kv.block_size, kv.head_dim};
}

void CudaBackend::rope_and_store_kv(const Tensor& qkv, int heads,
                                    std::span<const int32_t> positions,
                                    std::span<const int64_t> slots, const RopeTable& rope,
                                    const KvLayer& kv) {
  check(kv.dtype == activation_ && is_activation(qkv), "rope: the cache holds activations");
  check(qkv.cols == int64_t{heads + 2 * kv.kv_heads} * kv.head_dim && kv.head_dim % 2 == 0,
        "rope: qkv is [rows, (heads + 2 * kv_heads) * head_dim]");
  check(rope.cos.cols == kv.head_dim / 2 && rope.sin.cols == kv.head_dim / 2,
        "rope: tables are [positions, head_dim / 2]");
  check(static_cast<int64_t>(positions.size()) == qkv.rows && slots.size() == positions.size(),
        "rope: one position and one slot for each row");
  check_rope_rows(positions, slots, rope.cos.rows, kv);
  if (cuda::PassLimits* const limits = graphs_.recording()) {
    limits->positions = rope.cos.rows;
    limits->kv = kv;
  }
  bind_thread();
  const int32_t* device_positions = pass_.find(positions);
  const int64_t* device_slots = pass_.find(slots);
  if (device_positions == nullptr || device_slots == nullptr) {
    parcel_.clear();
    const size_t positions_at = parcel_.add(positions);
    const size_t slots_at = parcel_.add(slots);
    const std::byte* const sent = send();
    device_positions = cuda::Staging::at<int32_t>(sent, positions_at);
    device_slots = cuda::Staging::at<int64_t>(sent, slots_at);
  }
  cuda::rope_and_store_kv(qkv, heads, device_positions, device_slots, rope.cos, rope.sin, view(kv),
                          stream_.get());
}

void CudaBackend::paged_attention(const Tensor& q, int heads, std::span<const AttentionRun> runs,
                                  std::span<const int32_t> block_tables, const KvLayer& kv,
                                  float scale, const Tensor& y) {
  check(kv.dtype == activation_ && is_activation(q) && is_activation(y),
        "paged_attention: activations");
  check(kv.kv_heads > 0 && heads % kv.kv_heads == 0, "paged_attention: whole groups of heads");
  check(same_shape(q, y) && q.cols == int64_t{heads} * kv.head_dim,
        "paged_attention: q and y are [rows, heads * head_dim]");
  check(scale > 0, "paged_attention: a scale is positive");
  check_runs(runs, block_tables, kv, q.rows);
  bind_thread();
  auto* const scratch = static_cast<float*>(attention_scratch_.get());
  const cuda::PagedAttention attention = {q, y, heads, view(kv), nullptr, scale};
  const bool on_tensor_cores = cuda::fits_tensor_cores(attention);
  if (const auto* planned = pass_.find_attention(runs, block_tables, on_tensor_cores)) {
    const int grid = graphs_.recording() == nullptr
                         ? 0
                         : cuda::split_grid({heads, kv.kv_heads, kv.head_dim}, processors_);
    planned->attend(attention, pass_.device(), grid, scratch, stream_.get());
    return;
  }
  parcel_.clear();
  attention_.pack(runs, block_tables, {heads, kv.kv_heads, kv.head_dim}, on_tensor_cores,
                  cuda::kAttentionScratchBytes, &parcel_);
  attention_.attend(attention, send(), 0, scratch, stream_.get());
}

void CudaBackend::dense_attention(const Tensor& qkv, int heads, int head_dim, float scale,
                                  const Tensor& y) {
  check(is_activation(qkv) && is_activation(y) && qkv.rows == y.rows,
        "dense_attention: activations with equal rows");
  check(qkv.cols == int64_t{3} * heads * head_dim && y.cols == int64_t{heads} * head_dim,
        "dense_attention: qkv is [rows, 3 * heads * head_dim]");
  check(scale > 0, "dense_attention: a scale is positive");
  bind_thread();
  cuda::dense_attention(qkv, heads, head_dim, scale, y, stream_.get());
}

void CudaBackend::start_sampling(const Tensor& logits, std::span<const SampleRow> rows) {
  check(logits.dtype == DType::kF32 && logits.cols > 0, "start_sampling: f32 logits");
  check(static_cast<int64_t>(rows.size()) == logits.rows,
        "start_sampling: one set of parameters for each row");
  for (const SampleRow& row : rows) check_penalties(row);
  bind_thread();
  sampler_.start(logits, rows);
}

void CudaBackend::collect(std::span<SampledToken> sampled) {
  bind_thread();
  sampler_.collect(sampled);
  pulse().beat();
}

}  // namespace cogserve
