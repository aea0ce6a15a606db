#include "engine/run/model_runner.hpp"

#include <algorithm>
#include <exception>
#include <utility>

#include "engine/base/check.hpp"
#include "engine/run/batch_builder.hpp"

namespace cogserve {

ModelRunner::ModelRunner(Backend* backend, ModelConfig model, Decoder decoder, VisionTower tower,
                         KvCache kv_cache, FeaturePool features, int block_size)
    : backend_(backend),
      model_(std::move(model)),
      decoder_(std::move(decoder)),
      tower_(std::move(tower)),
      kv_cache_(std::move(kv_cache)),
      features_(std::move(features)),
      block_size_(block_size) {}

void ModelRunner::start(const Plan& plan) {
  for (const VisionWork& work : plan.vision) encode(work);
  Started started{.encodes = !plan.vision.empty()};
  if (!plan.chunks.empty()) {
    const auto features = [this](const Sequence& sequence) { return features_.find(sequence.id); };
    Batch batch = build_batch(plan.chunks, block_size_, model_.vocab, features);
    started.drawn_rows = batch.logit_rows.size();
    if (batch.decodes()) {
      const int rows = std::min(backend_->padded_rows(batch.rows()), decoder_.max_decode_rows());
      pad_batch(rows, kv_cache_.spare_block(), block_size_, &batch);
    }
    const Tensor logits = decoder_.forward(batch, kv_cache_.layers());
    if (started.drawn_rows > 0) {
      start_sampling(plan, logits.slice_rows(0, static_cast<int64_t>(started.drawn_rows)));
    }
  }
  started_.push_back(started);
}

std::span<const SampledToken> ModelRunner::collect() {
  check(!started_.empty(), "a plan was started");
  const Started started = started_.front();
  started_.pop_front();
  sampled_.resize(started.drawn_rows);
  if (!sampled_.empty()) {
    backend_->collect(sampled_);
  } else if (started.encodes) {
    backend_->synchronize();
  }
  return sampled_;
}

void ModelRunner::abandon() {
  while (!started_.empty()) {
    try {
      collect();
    } catch (const std::exception&) {  // its tokens are not wanted
    }
  }
}

void ModelRunner::encode(const VisionWork& work) {
  if (work.begin == 0) tower_.start(work.sequence->request.pixels);
  tower_.run_layers(work.begin, work.count);
  if (work.last) tower_.finish(features_.take(work.sequence->id));
}

void ModelRunner::start_sampling(const Plan& plan, const Tensor& logits) {
  std::vector<SampleRow> rows;
  std::vector<std::vector<int32_t>> banned;  // alive until the backend has sampled
  banned.reserve(plan.chunks.size());
  for (const ChunkWork& chunk : plan.chunks) {
    if (!chunk.samples) continue;
    const Sequence& sequence = *chunk.sequence;
    const Request& request = sequence.request;
    banned.emplace_back();
    if (sequence.generated() < request.min_tokens) {
      banned.back() = request.stop_token_ids;
      if (!request.ignore_eos) {
        banned.back().insert(banned.back().end(), model_.eos_ids.begin(), model_.eos_ids.end());
      }
    }
    rows.push_back({.params = request.sampling,
                    .prompt_ids = sequence.layout.ids,
                    .output_ids = sequence.output_ids,
                    .banned_ids = banned.back(),
                    .unknown_ids = sequence.has_drawn()});
  }
  backend_->start_sampling(logits, rows);
}

void ModelRunner::forget(const Sequence& sequence) { features_.release(sequence.id); }

}  // namespace cogserve
