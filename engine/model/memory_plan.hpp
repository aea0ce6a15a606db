// What a model will take, from its configuration alone: said before anything is loaded.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "engine/backend/backend.hpp"
#include "engine/base/dtype.hpp"
#include "engine/config.hpp"

namespace cogserve {

struct MemoryPlan {
  int64_t weights = 0;            // bytes, if the checkpoint stores everything as one dtype
  int64_t decoder_workspace = 0;  // bytes, with the RoPE table
  int64_t vision_workspace = 0;   // bytes
  int64_t kv_cache = 0;           // bytes

  int64_t total() const { return weights + decoder_workspace + vision_workspace + kv_cache; }
};

// What the model takes on `backend`: `dtype` and `formats` are those of its weights; the rows are
// those that Decoder::create is given; `kv_bytes` is the size of the KV cache.
MemoryPlan plan_memory(const Backend& backend, const ModelConfig& config, DType dtype,
                       const WeightFormats& formats, int max_rows, int max_logit_rows,
                       int64_t kv_bytes);

// RESOURCE_EXHAUSTED MEMORY_PLAN, with the arithmetic, when the plan takes more than `available`.
absl::Status check_plan(const MemoryPlan& plan, int64_t available);

}  // namespace cogserve
