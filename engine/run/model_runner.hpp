// Carries out a Plan: tower slice, batch, forward, sampling. Owns the model, the KV cache and the
// pictures' features. Engine thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "engine/backend/backend.hpp"
#include "engine/config.hpp"
#include "engine/model/decoder.hpp"
#include "engine/model/vision_tower.hpp"
#include "engine/run/feature_pool.hpp"
#include "engine/run/kv_cache.hpp"
#include "engine/schedule/plan.hpp"

namespace cogserve {

class ModelRunner {
 public:
  ModelRunner(Backend* backend, ModelConfig model, Decoder decoder, VisionTower tower,
              KvCache kv_cache, FeaturePool features, int block_size);

  // Gives the plan's work to the backend. Reads sequences and changes none of them
  // (`Scheduler::commit` does). At most two plans may be started and not collected. Throws when the
  // device or an invariant fails: the plan then counts as not started.
  void start(const Plan& plan);
  // The tokens of the oldest plan that was started and not collected: one entry for each chunk that
  // samples, in order; valid until the next call. Returns when the tower's layers of the plan are
  // computed, if it has any: what they take is measured. Throws when the device fails: its tokens
  // are lost.
  std::span<const SampledToken> collect();
  // Forgets what was started and not collected, whatever the device says.
  void abandon();

  // The sequence has ended: its features go.
  void forget(const Sequence& sequence);

 private:
  // A plan that was started.
  struct Started {
    size_t drawn_rows = 0;
    bool encodes = false;  // layers of the tower
  };

  void encode(const VisionWork& work);
  void start_sampling(const Plan& plan, const Tensor& logits);

  Backend* backend_;
  ModelConfig model_;
  Decoder decoder_;
  VisionTower tower_;
  KvCache kv_cache_;
  FeaturePool features_;
  int block_size_;
  std::deque<Started> started_;  // and not collected
  std::vector<SampledToken> sampled_;
};

}  // namespace cogserve
