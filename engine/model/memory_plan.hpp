// What a model will take, from its configuration alone: said before anything is loaded.
#pragma once

#include <cstdint>
#include <string>

#include "engine/base/dtype.hpp"
#include "engine/config.hpp"

namespace cogserve {

struct MemoryPlan {
  int64_t weights = 0;            // bytes, if the checkpoint stores everything as one dtype
  int64_t decoder_workspace = 0;  // bytes, with the RoPE table
  int64_t vision_workspace = 0;   // bytes
  int64_t kv_per_token = 0;       // bytes of K and V over all layers

  int64_t kv_bytes(int64_t tokens) const { return kv_per_token * tokens; }
};

// `weights`, `activation` and `kv` are the element types of the three; the rows are those that
// Decoder::create is given.
MemoryPlan plan_memory(const ModelConfig& config, DType weights, DType activation, DType kv,
                       int max_rows, int max_logit_rows);

}  // namespace cogserve
