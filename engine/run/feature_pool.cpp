#include "engine/run/feature_pool.hpp"

#include <utility>

#include "engine/base/check.hpp"
#include "engine/model/vision_tower.hpp"

namespace cogserve {

absl::StatusOr<FeaturePool> FeaturePool::create(Backend* backend, const ModelConfig& model,
                                                int places) {
  const DType dtype = backend->activation_dtype();
  auto memory = backend->allocate(VisionTower::features_bytes(model, dtype) * places);
  if (!memory.ok()) return memory.status();
  FeaturePool pool;
  pool.memory_ = *std::move(memory);
  pool.dtype_ = dtype;
  pool.rows_ = model.vision.image_tokens();
  pool.hidden_ = model.hidden;
  for (int place = places; place-- > 0;) pool.free_.push_back(place);
  return pool;
}

Tensor FeaturePool::take(uint64_t sequence_id) {
  if (const auto found = places_.find(sequence_id); found != places_.end()) {
    return at(found->second);
  }
  check(!free_.empty(), "more pictures than places for them");
  const int place = free_.back();
  free_.pop_back();
  places_.emplace(sequence_id, place);
  return at(place);
}

Tensor FeaturePool::find(uint64_t sequence_id) const {
  const auto found = places_.find(sequence_id);
  check(found != places_.end(), "image rows without features");
  return at(found->second);
}

void FeaturePool::release(uint64_t sequence_id) {
  const auto found = places_.find(sequence_id);
  if (found == places_.end()) return;
  free_.push_back(found->second);
  places_.erase(found);
}

Tensor FeaturePool::at(int place) const {
  const Tensor all = Tensor::matrix(memory_.data(), dtype_, int64_t{place + 1} * rows_, hidden_);
  return all.slice_rows(int64_t{place} * rows_, rows_);
}

}  // namespace cogserve
