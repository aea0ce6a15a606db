// What a model will take of a device's memory, from its configuration alone: decided before
// anything is loaded, with or without the device at hand.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/backend/backend.hpp"
#include "engine/backend/device_traits.hpp"
#include "engine/config.hpp"
#include "engine/model/weights.hpp"

namespace cogserve {

// All in bytes unless it says otherwise; what is allocated is in whole pages of the device.
struct MemoryPlan {
  int64_t decoder_weights = 0;
  int64_t vision_weights = 0;
  int64_t decoder_workspace = 0;  // with the RoPE table
  int64_t vision_workspace = 0;
  int64_t backend = 0;   // what the backend keeps for itself
  int64_t features = 0;  // of the encoded pictures that are kept at the same time
  int64_t kv_cache = 0;

  int64_t budget = 0;       // what all of it may take
  int64_t block_bytes = 0;  // of one KV block
  int num_blocks = 0;       // for sequences
  int block_size = 0;       // tokens
  int max_pictures = 0;     // kept at the same time
  int picture_tokens = 0;   // of one picture in the cache
  int max_model_len = 0;

  // A sequence may end while a step that reads its picture is under way: its place is free a step
  // later, and one more makes up for that.
  int picture_places() const { return max_pictures + 1; }
  int64_t total() const;
  int64_t kv_tokens() const { return int64_t{num_blocks} * block_size; }
  // Everything that total() adds up, in words.
  std::vector<std::pair<std::string, int64_t>> parts() const;
};

// What a process may plan on a device of `total` bytes: what config.gpu_memory and
// config.gpu_memory_utilization leave of it, without what the driver takes. At least 0.
int64_t memory_budget(const EngineConfig& config, const DeviceTraits& traits, int64_t total);
// The same on a device that is there, and may be in use by others: no more than what is free on it,
// without what the driver will still take.
int64_t memory_budget(const EngineConfig& config, const DeviceTraits& traits,
                      const Backend& backend);

// A KV cache of config.kv_cache_bytes or, where that is 0, the device's default or all that is
// left of the budget. `weights` is what measure_weights says. INVALID_ARGUMENT OPTION_RANGE if
// config.kv_cache_bytes cannot hold two blocks.
absl::StatusOr<MemoryPlan> plan_memory(const ModelConfig& model, const EngineConfig& config,
                                       const WeightBytes& weights, const DeviceTraits& traits,
                                       int64_t budget);

// RESOURCE_EXHAUSTED MEMORY_PLAN, with the arithmetic, when the plan takes more than its budget or
// leaves no room for two KV blocks.
absl::Status check_plan(const MemoryPlan& plan);

// The same from `config.model_dir` and `config.device` alone; nothing is loaded, and only a
// checkpoint that is quantised already must have its tensors there. The budget is that
// of `config.gpu_memory`, else of the device itself, which must be there: else FAILED_PRECONDITION
// DEVICE.
absl::StatusOr<MemoryPlan> plan_memory(const EngineConfig& config);
// The same for the device itself, of which `config.gpu_memory` may be less: as Engine::create plans.
absl::StatusOr<MemoryPlan> plan_memory_here(const EngineConfig& config);

}  // namespace cogserve
