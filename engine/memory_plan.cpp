#include "engine/memory_plan.hpp"

#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"
#include "engine/base/error.hpp"
#include "engine/model/decoder.hpp"
#include "engine/model/open_weights.hpp"
#include "engine/model/rope_table.hpp"
#include "engine/model/vision_tower.hpp"
#include "engine/model/weights.hpp"
#include "engine/run/kv_cache.hpp"

namespace cogserve {
namespace {

constexpr int64_t kMostBlocks = int64_t{1} << 24;
constexpr int kFewestBlocks = 2;

std::string mib(int64_t bytes) { return absl::StrCat(bytes >> 20, " MiB"); }

int pictures_for(int64_t kv_tokens, const ModelConfig& model, const EngineConfig& config) {
  // One more than the cache can hold, so that the next is encoded while they are answered.
  const int64_t pictures = kv_tokens / model.vision.image_tokens() + 1;
  return static_cast<int>(std::min<int64_t>(pictures, config.max_num_seqs));
}

// Divides what is left between the KV cache and the features of the pictures in it.
void share_out(int64_t left, const ModelConfig& model, const EngineConfig& config,
               const DeviceTraits& traits, int64_t features_of_one, MemoryPlan* plan) {
  const int64_t kv_of_one =
      plan->block_bytes * (model.vision.image_tokens() + config.block_size) / config.block_size;
  const int64_t pictures = left / (features_of_one + kv_of_one) + 1;
  plan->max_pictures = static_cast<int>(std::clamp<int64_t>(pictures, 1, config.max_num_seqs));
  const int64_t kv = left - traits.allocated(plan->picture_places() * features_of_one);
  const int64_t blocks = KvCache::blocks_in(kv / traits.granularity * traits.granularity, model,
                                            config.block_size, traits.kv);
  plan->num_blocks = static_cast<int>(std::clamp<int64_t>(blocks, 0, kMostBlocks));
}

// The rows of a step and the RoPE table are two allocations.
int64_t decoder_workspace(const ModelConfig& model, const EngineConfig& config,
                          const DeviceTraits& traits) {
  const auto both = static_cast<int64_t>(Decoder::workspace_bytes(
      model, traits.activation, config.max_num_batched_tokens, config.max_num_seqs));
  const auto table = static_cast<int64_t>(rope_table_bytes(model));
  return traits.allocated(both - table) + traits.allocated(table);
}

}  // namespace

std::vector<std::pair<std::string, int64_t>> MemoryPlan::parts() const {
  return {{"weights, decoder", decoder_weights},
          {"weights, vision tower", vision_weights},
          {"workspace, decoder", decoder_workspace},
          {"workspace, vision tower", vision_workspace},
          {"backend", backend},
          {"picture features", features},
          {"KV cache", kv_cache}};
}

int64_t MemoryPlan::total() const {
  int64_t total = 0;
  for (const auto& [name, bytes] : parts()) total += bytes;
  return total;
}

int64_t memory_budget(const EngineConfig& config, const DeviceTraits& traits, int64_t total) {
  const int64_t card = config.gpu_memory > 0 ? std::min(config.gpu_memory, total) : total;
  const auto share =
      static_cast<int64_t>(static_cast<double>(card) * config.gpu_memory_utilization);
  return std::max<int64_t>(share - traits.context_bytes, 0);
}

int64_t memory_budget(const EngineConfig& config, const DeviceTraits& traits,
                      const Backend& backend) {
  // What the backend has taken for itself already is part of the plan; the driver has not taken all
  // that it will.
  const int64_t free = backend.available_memory() + traits.own_bytes - traits.late_context_bytes;
  return std::clamp<int64_t>(free, 0, memory_budget(config, traits, backend.total_memory()));
}

absl::StatusOr<MemoryPlan> plan_memory(const ModelConfig& model, const EngineConfig& config,
                                       const WeightBytes& weights, const DeviceTraits& traits,
                                       int64_t budget) {
  MemoryPlan plan;
  plan.budget = budget;
  plan.block_size = config.block_size;
  plan.picture_tokens = model.vision.image_tokens();
  plan.max_model_len = config.max_model_len > 0 ? config.max_model_len : model.max_positions;
  plan.block_bytes =
      static_cast<int64_t>(KvCache::block_bytes(model, config.block_size, traits.kv));
  plan.decoder_weights = traits.allocated(weights.decoder);
  plan.vision_weights = traits.allocated(weights.vision);
  plan.decoder_workspace = decoder_workspace(model, config, traits);
  plan.vision_workspace = traits.allocated(
      static_cast<int64_t>(VisionTower::workspace_bytes(model, traits.activation)));
  plan.backend = traits.own_bytes + traits.allocated(traits.own_bytes_per_token_id * model.vocab);

  const int64_t features_of_one =
      static_cast<int64_t>(VisionTower::features_bytes(model, traits.activation));
  const int64_t wanted = config.kv_cache_bytes > 0 ? static_cast<int64_t>(config.kv_cache_bytes)
                                                   : traits.default_kv_bytes;
  if (wanted == 0) {
    share_out(budget - plan.total(), model, config, traits, features_of_one, &plan);
  } else {
    plan.num_blocks = static_cast<int>(std::min(wanted / plan.block_bytes, kMostBlocks));
    plan.max_pictures = pictures_for(plan.kv_tokens(), model, config);
    if (plan.num_blocks < kFewestBlocks) {
      return invalid_argument("OPTION_RANGE", "kv-cache-memory-bytes",
                              absl::StrCat("--kv-cache-memory-bytes: ", wanted, " bytes hold ",
                                           plan.num_blocks, " blocks of ", plan.block_bytes,
                                           " bytes; at least ", kFewestBlocks, " are needed"));
    }
  }
  plan.features = traits.allocated(plan.picture_places() * features_of_one);
  plan.kv_cache = traits.allocated(
      static_cast<int64_t>(KvCache::bytes(model, plan.num_blocks, config.block_size, traits.kv)));
  return plan;
}

absl::Status check_plan(const MemoryPlan& plan) {
  if (plan.total() <= plan.budget && plan.num_blocks >= kFewestBlocks) return absl::OkStatus();
  std::string sum;
  for (const auto& [name, bytes] : plan.parts()) {
    absl::StrAppend(&sum, sum.empty() ? "" : " + ", name, " ", mib(bytes));
  }
  return make_error(absl::StatusCode::kResourceExhausted, "MEMORY_PLAN", "",
                    absl::StrCat("the model does not fit: ", sum, " = ", mib(plan.total()),
                                 ", and ", mib(plan.budget), " may be used"));
}

namespace {

// From the configuration and, of a quantised checkpoint, the tensors' forms.
absl::StatusOr<MemoryPlan> plan_within(const EngineConfig& config, const DeviceTraits& traits,
                                       int64_t budget) {
  const auto model = read_model_config(config.model_dir);
  if (!model.ok()) return model.status();
  EngineConfig sizes_only = config;
  // A dense checkpoint's config says it all; a quantised one's does not say of what.
  if (model->quantization.method == QuantMethod::kNone) sizes_only.load_format = LoadFormat::kDummy;
  const auto source = open_weights(sizes_only, *model);
  if (absl::IsNotFound(source.status())) {
    return make_error(
        absl::StatusCode::kNotFound, error_reason(source.status()), "model",
        absl::StrCat(source.status().message(), "; a quantised checkpoint (quant_method '",
                     model->quantization.name, "') is planned from the headers of its files"));
  }
  if (!source.ok()) return source.status();
  const auto weights = measure_weights(traits, *model, config.formats, source->get());
  if (!weights.ok()) return weights.status();
  return plan_memory(*model, config, *weights, traits, budget);
}

}  // namespace

absl::StatusOr<MemoryPlan> plan_memory(const EngineConfig& config) {
  if (config.gpu_memory == 0) return plan_memory_here(config);
  const auto traits = device_traits(config.device);
  if (!traits.ok()) return traits.status();
  return plan_within(config, *traits, memory_budget(config, *traits, config.gpu_memory));
}

absl::StatusOr<MemoryPlan> plan_memory_here(const EngineConfig& config) {
  const auto traits = device_traits(config.device);
  if (!traits.ok()) return traits.status();
  const auto backend = make_backend(config.device, config.threads);
  if (!backend.ok()) {
    return make_error(absl::StatusCode::kFailedPrecondition, "DEVICE", "device",
                      absl::StrCat(backend.status().message(),
                                   "; --gpu-memory plans for a device that is not here"));
  }
  return plan_within(config, *traits, memory_budget(config, *traits, **backend));
}

}  // namespace cogserve
