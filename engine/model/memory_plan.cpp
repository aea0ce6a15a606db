#include "engine/model/memory_plan.hpp"

#include "engine/model/decoder.hpp"
#include "engine/model/vision_tower.hpp"
#include "engine/model/weights.hpp"

namespace cogserve {

MemoryPlan plan_memory(const ModelConfig& config, DType weights, DType activation, DType kv,
                       int max_rows, int max_logit_rows) {
  MemoryPlan plan;
  plan.weights = weight_bytes(config, weights);
  plan.decoder_workspace =
      static_cast<int64_t>(Decoder::workspace_bytes(config, activation, max_rows, max_logit_rows));
  plan.vision_workspace = static_cast<int64_t>(VisionTower::workspace_bytes(config, activation));
  plan.kv_per_token = int64_t{2} * config.layers * config.kv_heads * config.head_dim() *
                      static_cast<int64_t>(dtype_size(kv));
  return plan;
}

}  // namespace cogserve
