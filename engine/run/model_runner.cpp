#include "engine/run/model_runner.hpp"

#include <utility>

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

std::span<const SampledToken> ModelRunner::run(const Plan& plan) {
  sampled_.clear();
  for (const VisionWork& work : plan.vision) encode(work);
  if (plan.chunks.empty()) return sampled_;
  const auto features = [this](const Sequence& sequence) { return features_.find(sequence.id); };
  const Batch batch = build_batch(plan.chunks, block_size_, model_.vocab, features);
  const Tensor logits = decoder_.forward(batch, kv_cache_.layers());
  if (!batch.logit_rows.empty()) sample(plan, logits);
  return sampled_;
}

void ModelRunner::encode(const VisionWork& work) {
  if (work.begin == 0) tower_.start(work.sequence->request.pixels);
  tower_.run_layers(work.begin, work.count);
  if (work.last) tower_.finish(features_.take(work.sequence->id));
}

void ModelRunner::sample(const Plan& plan, const Tensor& logits) {
  std::vector<SampleRow> rows;
  std::vector<std::vector<int32_t>> banned;  // alive until the backend has sampled
  banned.reserve(plan.chunks.size());
  for (const ChunkWork& chunk : plan.chunks) {
    if (!chunk.samples) continue;
    const Sequence& sequence = *chunk.sequence;
    const Request& request = sequence.request;
    banned.emplace_back();
    if (static_cast<int>(sequence.output_ids.size()) < request.min_tokens) {
      banned.back() = request.stop_token_ids;
      if (!request.ignore_eos) {
        banned.back().insert(banned.back().end(), model_.eos_ids.begin(), model_.eos_ids.end());
      }
    }
    rows.push_back({.params = request.sampling,
                    .prompt_ids = sequence.layout.ids,
                    .output_ids = sequence.output_ids,
                    .banned_ids = banned.back()});
  }
  backend_->start_sampling(logits, rows);
  sampled_.resize(rows.size());
  backend_->collect(sampled_);
}

void ModelRunner::forget(const Sequence& sequence) { features_.release(sequence.id); }

}  // namespace cogserve
