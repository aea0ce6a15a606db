#include "engine/backend/cuda/sampler.hpp"

#include <iterator>

#include "engine/backend/cuda/error.hpp"
#include "engine/backend/cuda/own_memory.hpp"
#include "engine/base/check.hpp"

namespace cogserve::cuda {
namespace {

bool changes_logits(const SampleRow& row) {
  return penalises(row.params) || !row.banned_ids.empty();
}

// How many ids of the row the device must know.
size_t ids_of(const SampleRow& row) {
  const size_t seen = penalises(row.params) ? row.prompt_ids.size() + row.output_ids.size() : 0;
  return seen + row.banned_ids.size();
}

// Appends the row's ids; the task says where they are.
SampleTask make_task(const SampleRow& row, int32_t scratch_row, std::vector<int32_t>* ids) {
  const SamplingParams& params = row.params;
  SampleTask task;
  task.temperature = params.temperature;
  task.top_p = params.top_p;
  task.min_p = params.min_p;
  task.repetition_penalty = params.repetition_penalty;
  task.presence_penalty = params.presence_penalty;
  task.frequency_penalty = params.frequency_penalty;
  task.top_k = params.top_k;
  task.logprobs = params.logprobs;
  task.seed = params.seed;
  task.draw = row.index();
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

void read_result(const SampleResult& result, SampledToken* token) {
  token->finite = result.finite != 0;
  token->id = result.id;
  token->logprob = result.logprob;
  token->top.clear();
  for (int i = 0; i < result.alternatives; ++i) {
    token->top.push_back({result.ids[i], result.logprobs[i]});
  }
}

}  // namespace

Sampler::Sampler(const Stream* stream, Staging* staging)
    : stream_(stream),
      staging_(staging),
      results_(allocate_device(kSampleRows * sizeof(SampleResult))) {
  for (Draw& draw : draws_) reserve(&draw, kSampleRows);
}

void Sampler::reserve(Draw* draw, size_t rows) {
  if (draw->capacity < rows) {
    draw->results = allocate_pinned(rows * sizeof(SampleResult));
    draw->capacity = rows;
  }
  if (drawn_capacity_ < rows) {
    drawn_ids_ = allocate_device(rows * sizeof(int32_t));
    drawn_capacity_ = rows;
  }
}

void Sampler::start(const Tensor& logits, std::span<const SampleRow> rows) {
  check(uncollected_ < std::size(draws_), "start_sampling: earlier draws were not collected");
  Draw& draw = draws_[(oldest_ + uncollected_) % std::size(draws_)];
  reserve(&draw, rows.size());
  reserve_changed(logits.cols);
  auto* const ids = static_cast<int32_t*>(drawn_ids_.get());
  auto* const host = static_cast<SampleResult*>(draw.results.get());
  for (size_t begin = 0; begin < rows.size();) {
    const size_t count = rows_of_a_launch(rows.subspan(begin));
    start_some(logits.slice_rows(static_cast<int64_t>(begin), static_cast<int64_t>(count)),
               rows.subspan(begin, count), ids + begin, host + begin);
    begin += count;
  }
  draw.arrived.record(*stream_);
  draw.rows = rows.size();
  drawn_rows_ = static_cast<int>(rows.size());
  ++uncollected_;
}

void Sampler::collect(std::span<SampledToken> sampled) {
  check(uncollected_ > 0, "collect: a draw was started");
  const Draw& draw = draws_[oldest_];
  oldest_ = (oldest_ + 1) % std::size(draws_);
  --uncollected_;
  check(sampled.size() == draw.rows, "collect: one result for each row of a draw");
  draw.arrived.wait();
  const auto* const results = static_cast<const SampleResult*>(draw.results.get());
  for (size_t i = 0; i < sampled.size(); ++i) read_result(results[i], &sampled[i]);
}

size_t Sampler::rows_of_a_launch(std::span<const SampleRow> rows) const {
  const size_t most_ids = staging_->max_bytes() / sizeof(int32_t) / 2;
  size_t ids = 0;
  size_t changed = 0;
  size_t count = 0;
  for (const SampleRow& row : rows) {
    ids += ids_of(row);
    changed += changes_logits(row) ? 1 : 0;
    if (count == kSampleRows || changed > kChangedRows || (count > 0 && ids > most_ids)) break;
    ++count;
  }
  return count;
}

void Sampler::start_some(const Tensor& logits, std::span<const SampleRow> rows, int32_t* drawn_ids,
                         SampleResult* host) {
  tasks_.clear();
  ids_.clear();
  int32_t changed = 0;
  for (const SampleRow& row : rows) {
    tasks_.push_back(make_task(row, changes_logits(row) ? changed++ : -1, &ids_));
  }
  parcel_.clear();
  const size_t tasks_at = parcel_.add(std::span<const SampleTask>(tasks_));
  const size_t ids_at = parcel_.add(std::span<const int32_t>(ids_));
  const std::byte* const sent = staging_->send(parcel_);
  auto* const results = static_cast<SampleResult*>(results_.get());
  sample(logits, Staging::at<SampleTask>(sent, tasks_at), Staging::at<int32_t>(sent, ids_at),
         changed_logits(), token_counts(), results, drawn_ids, stream_->get());
  check_cuda(cudaMemcpyAsync(host, results, rows.size() * sizeof(SampleResult),
                             cudaMemcpyDeviceToHost, stream_->get()),
             "cudaMemcpyAsync");
}

void Sampler::reserve_changed(int64_t vocab) {
  if (changed_vocab_ >= vocab) return;
  changed_ = allocate_device(vocab * kChangedBytesPerTokenId);
  changed_vocab_ = vocab;
  check_cuda(
      cudaMemsetAsync(token_counts(), 0, kChangedRows * vocab * sizeof(int32_t), stream_->get()),
      "cudaMemsetAsync");
}

}  // namespace cogserve::cuda
