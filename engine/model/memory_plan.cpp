#include "engine/model/memory_plan.hpp"

#include <string>

#include "engine/base/error.hpp"
#include "engine/model/decoder.hpp"
#include "engine/model/vision_tower.hpp"
#include "engine/model/weights.hpp"

namespace cogserve {

namespace {

std::string mib(int64_t bytes) { return std::to_string(bytes >> 20) + " MiB"; }

}  // namespace

MemoryPlan plan_memory(const Backend& backend, const ModelConfig& config, DType dtype,
                       const WeightFormats& formats, int max_rows, int max_logit_rows,
                       int64_t kv_bytes) {
  const DType activation = backend.activation_dtype();
  MemoryPlan plan;
  plan.weights = weight_bytes(backend, config, dtype, formats);
  plan.decoder_workspace =
      static_cast<int64_t>(Decoder::workspace_bytes(config, activation, max_rows, max_logit_rows));
  plan.vision_workspace = static_cast<int64_t>(VisionTower::workspace_bytes(config, activation));
  plan.kv_cache = kv_bytes;
  return plan;
}

absl::Status check_plan(const MemoryPlan& plan, int64_t available) {
  if (plan.total() <= available) return absl::OkStatus();
  return make_error(absl::StatusCode::kResourceExhausted, "MEMORY_PLAN", "",
                    "the model does not fit: weights " + mib(plan.weights) + " + decoder " +
                        mib(plan.decoder_workspace) + " + vision tower " +
                        mib(plan.vision_workspace) + " + KV cache " + mib(plan.kv_cache) + " = " +
                        mib(plan.total()) + ", and " + mib(available) + " are available");
}

}  // namespace cogserve
