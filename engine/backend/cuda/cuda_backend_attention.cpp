// CudaBackend's operations with arrays of the host that say which rows belong together: attention
// and sampling.
#include <algorithm>

#include "engine/backend/cuda/cuda_backend.hpp"
#include "engine/backend/cuda/dense_attention.hpp"
#include "engine/backend/cuda/error.hpp"
#include "engine/backend/cuda/own_memory.hpp"
#include "engine/backend/cuda/rope_kv.hpp"
#include "engine/backend/shape_checks.hpp"
#include "engine/base/check.hpp"

namespace cogserve {
namespace {

bool penalises(const SamplingParams& params) {
  return params.repetition_penalty != 1.0f || params.presence_penalty != 0.0f ||
         params.frequency_penalty != 0.0f;
}

bool changes_logits(const SampleRow& row) {
  return penalises(row.params) || !row.banned_ids.empty();
}

// How many ids of the row the device must know.
size_t ids_of(const SampleRow& row) {
  const size_t seen = penalises(row.params) ? row.prompt_ids.size() + row.output_ids.size() : 0;
  return seen + row.banned_ids.size();
}

// Appends the row's ids; the task says where they are.
cuda::SampleTask make_task(const SampleRow& row, int32_t scratch_row, std::vector<int32_t>* ids) {
  const SamplingParams& params = row.params;
  cuda::SampleTask task;
  task.temperature = params.temperature;
  task.top_p = params.top_p;
  task.min_p = params.min_p;
  task.repetition_penalty = params.repetition_penalty;
  task.presence_penalty = params.presence_penalty;
  task.frequency_penalty = params.frequency_penalty;
  task.top_k = params.top_k;
  task.logprobs = params.logprobs;
  task.seed = params.seed;
  task.draw = row.output_ids.size();
  task.ids_begin = static_cast<int32_t>(ids->size());
  task.scratch_row = scratch_row;
  if (penalises(params)) {
    task.prompt_ids = static_cast<int32_t>(row.prompt_ids.size());
    task.output_ids = static_cast<int32_t>(row.output_ids.size());
    ids->insert(ids->end(), row.prompt_ids.begin(), row.prompt_ids.end());
    ids->insert(ids->end(), row.output_ids.begin(), row.output_ids.end());
  }
  task.banned_ids = static_cast<int32_t>(row.banned_ids.size());
  ids->insert(ids->end(), row.banned_ids.begin(), row.banned_ids.end());
  return task;
}

void read_result(const cuda::SampleResult& result, SampledToken* token) {
  token->finite = result.finite != 0;
  token->id = result.id;
  token->logprob = result.logprob;
  token->top.clear();
  for (int i = 0; i < result.alternatives; ++i) {
    token->top.push_back({result.ids[i], result.logprobs[i]});
  }
}

}  // namespace

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
  const int64_t capacity = int64_t{kv.num_blocks} * kv.block_size;
  for (size_t row = 0; row < slots.size(); ++row) {
    check(slots[row] >= 0 && slots[row] < capacity, "rope: slot outside the cache");
    check(positions[row] >= 0 && positions[row] < rope.cos.rows, "rope: position out of range");
  }
  bind_thread();
  rope_parcel_.clear();
  const size_t positions_at = rope_parcel_.add(positions);
  const size_t slots_at = rope_parcel_.add(slots);
  const std::byte* const sent = staging_.send(rope_parcel_);
  cuda::rope_and_store_kv(qkv, heads, cuda::Staging::at<int32_t>(sent, positions_at),
                          cuda::Staging::at<int64_t>(sent, slots_at), rope.cos, rope.sin, view(kv),
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
  check_runs(runs, block_tables, kv, q.rows);
  bind_thread();
  runs_.clear();
  for (const AttentionRun& run : runs) {
    runs_.push_back({run.row_begin, run.row_count, run.first_index, run.table_begin});
  }
  cuda::PagedAttention attention = {q, y, heads, view(kv), nullptr, scale};
  if (cuda::fits_tensor_cores(attention)) return attend_on_tensor_cores(attention, block_tables);
  cuda::plan_single_rows(runs_, &single_rows_);
  attention_parcel_.clear();
  const size_t tables_at = attention_parcel_.add(block_tables);
  const size_t rows_at = attention_parcel_.add(std::span<const cuda::SingleRow>(single_rows_));
  const std::byte* const sent = staging_.send(attention_parcel_);
  attention.block_tables = cuda::Staging::at<int32_t>(sent, tables_at);
  cuda::attend_single_rows(attention, cuda::Staging::at<cuda::SingleRow>(sent, rows_at),
                           static_cast<int>(single_rows_.size()), stream_.get());
}

void CudaBackend::attend_on_tensor_cores(cuda::PagedAttention attention,
                                         std::span<const int32_t> block_tables) {
  const int group = attention.heads / attention.kv.kv_heads;
  const size_t split = cuda::split_bytes(attention.heads, attention.kv.head_dim);
  cuda::plan_attention(runs_, cuda::kPrefillRows / group,
                       static_cast<int>(cuda::kAttentionScratchBytes / split), &plan_);
  attention_parcel_.clear();
  const size_t tables_at = attention_parcel_.add(block_tables);
  const size_t tiles_at = attention_parcel_.add(std::span<const cuda::PrefillTile>(plan_.tiles));
  const size_t splits_at = attention_parcel_.add(std::span<const cuda::DecodeSplit>(plan_.splits));
  const size_t merges_at = attention_parcel_.add(std::span<const cuda::DecodeMerge>(plan_.merges));
  const std::byte* const sent = staging_.send(attention_parcel_);
  attention.block_tables = cuda::Staging::at<int32_t>(sent, tables_at);
  cuda::attend_prefill(attention, cuda::Staging::at<cuda::PrefillTile>(sent, tiles_at),
                       static_cast<int>(plan_.tiles.size()), stream_.get());
  for (const cuda::DecodeWave& wave : plan_.waves) {
    cuda::attend_decode(attention, cuda::Staging::at<cuda::DecodeSplit>(sent, splits_at),
                        cuda::Staging::at<cuda::DecodeMerge>(sent, merges_at), wave,
                        static_cast<float*>(attention_scratch_.get()), stream_.get());
  }
}

void CudaBackend::dense_attention(const Tensor& qkv, int heads, int head_dim, float scale,
                                  const Tensor& y) {
  check(is_activation(qkv) && is_activation(y) && qkv.rows == y.rows,
        "dense_attention: activations with equal rows");
  check(qkv.cols == int64_t{3} * heads * head_dim && y.cols == int64_t{heads} * head_dim,
        "dense_attention: qkv is [rows, 3 * heads * head_dim]");
  bind_thread();
  cuda::dense_attention(qkv, heads, head_dim, scale, y, stream_.get());
}

void CudaBackend::sample(const Tensor& logits, std::span<const SampleRow> rows,
                         std::span<SampledToken> sampled) {
  check(logits.dtype == DType::kF32 && logits.cols > 0, "sample: f32 logits");
  check(static_cast<int64_t>(rows.size()) == logits.rows && sampled.size() == rows.size(),
        "sample: one set of parameters and one result for each row");
  bind_thread();
  for (size_t begin = 0; begin < rows.size();) {
    const size_t count = rows_of_a_launch(rows.subspan(begin));
    sample_some(logits.slice_rows(static_cast<int64_t>(begin), static_cast<int64_t>(count)),
                rows.subspan(begin, count), sampled.subspan(begin, count));
    begin += count;
  }
}

size_t CudaBackend::rows_of_a_launch(std::span<const SampleRow> rows) const {
  const size_t most_ids = staging_.max_bytes() / sizeof(int32_t) / 2;
  size_t ids = 0;
  size_t changed = 0;
  size_t count = 0;
  for (const SampleRow& row : rows) {
    ids += ids_of(row);
    changed += changes_logits(row) ? 1 : 0;
    if (count == cuda::kSampleRows || changed > cuda::kChangedRows || (count > 0 && ids > most_ids))
      break;
    ++count;
  }
  return count;
}

void CudaBackend::sample_some(const Tensor& logits, std::span<const SampleRow> rows,
                              std::span<SampledToken> sampled) {
  tasks_.clear();
  sample_ids_.clear();
  int32_t changed = 0;
  for (const SampleRow& row : rows) {
    tasks_.push_back(make_task(row, changes_logits(row) ? changed++ : -1, &sample_ids_));
  }
  if (changed > 0 && changed_vocab_ < logits.cols) {
    changed_logits_ = cuda::allocate_device(cuda::kChangedRows * logits.cols * sizeof(float));
    const size_t count_bytes = cuda::kChangedRows * logits.cols * sizeof(int32_t);
    token_counts_ = cuda::allocate_device(count_bytes);
    cuda::check_cuda(cudaMemsetAsync(token_counts_.get(), 0, count_bytes, stream_.get()),
                     "cudaMemsetAsync");
    changed_vocab_ = logits.cols;
  }
  sample_parcel_.clear();
  const size_t tasks_at = sample_parcel_.add(std::span<const cuda::SampleTask>(tasks_));
  const size_t ids_at = sample_parcel_.add(std::span<const int32_t>(sample_ids_));
  const std::byte* const sent = staging_.send(sample_parcel_);
  auto* const results = static_cast<cuda::SampleResult*>(results_.get());
  cuda::sample(logits, cuda::Staging::at<cuda::SampleTask>(sent, tasks_at),
               cuda::Staging::at<int32_t>(sent, ids_at), static_cast<float*>(changed_logits_.get()),
               static_cast<int32_t*>(token_counts_.get()), results, stream_.get());
  auto* const host = static_cast<cuda::SampleResult*>(host_results_.get());
  cuda::check_cuda(cudaMemcpyAsync(host, results, rows.size() * sizeof(cuda::SampleResult),
                                   cudaMemcpyDeviceToHost, stream_.get()),
                   "cudaMemcpyAsync");
  wait();
  for (size_t i = 0; i < rows.size(); ++i) read_result(host[i], &sampled[i]);
}

}  // namespace cogserve
