#include "engine/run/model_runner.hpp"

#include <algorithm>
#include <utility>

#include "engine/base/check.hpp"
#include "engine/run/batch_builder.hpp"

namespace cogserve {

ModelRunner::ModelRunner(Backend* backend, ModelConfig model, Decoder decoder, VisionTower tower,
                         KvCache kv_cache, int block_size)
    : backend_(backend),
      model_(std::move(model)),
      decoder_(std::move(decoder)),
      tower_(std::move(tower)),
      kv_cache_(std::move(kv_cache)),
      block_size_(block_size) {}

std::span<const SampledToken> ModelRunner::run(const Plan& plan) {
  sampled_.clear();
  for (const VisionWork& work : plan.vision) encode(work);
  if (plan.chunks.empty()) return sampled_;
  const auto features = [this](const Sequence& sequence) {
    const auto found = features_.find(sequence.id);
    check(found != features_.end(), "image rows without features");
    return Tensor::matrix(found->second.data(), backend_->activation_dtype(),
                          model_.vision.image_tokens(), model_.hidden);
  };
  Batch batch = build_batch(plan.chunks, block_size_, model_.vocab, features);
  const auto wanted = static_cast<int64_t>(batch.logit_rows.size());
  if (batch.decodes()) {
    const int rows = std::min(backend_->padded_rows(batch.rows()), decoder_.max_decode_rows());
    pad_batch(rows, kv_cache_.spare_block(), block_size_, &batch);
  }
  const Tensor logits = decoder_.forward(batch, kv_cache_.layers());
  if (wanted > 0) sample(plan, logits.slice_rows(0, wanted));
  return sampled_;
}

void ModelRunner::encode(const VisionWork& work) {
  if (work.begin == 0) tower_.start(work.sequence->request.pixels);
  tower_.run_layers(work.begin, work.count);
  if (!work.last) return;
  const int rows = model_.vision.image_tokens();
  const DType dtype = backend_->activation_dtype();
  auto buffer = backend_->allocate(size_t{1} * rows * model_.hidden * dtype_size(dtype));
  check(buffer.ok(), "no memory for a picture's features");
  tower_.finish(Tensor::matrix(buffer->data(), dtype, rows, model_.hidden));
  features_.insert_or_assign(work.sequence->id, *std::move(buffer));
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

void ModelRunner::forget(const Sequence& sequence) { features_.erase(sequence.id); }

}  // namespace cogserve
