#include "engine/engine.hpp"

#include <algorithm>
#include <utility>

#include "engine/backend/backend.hpp"
#include "engine/backend/device_traits.hpp"
#include "engine/base/check.hpp"
#include "engine/base/error.hpp"
#include "engine/engine_loop.hpp"
#include "engine/memory_plan.hpp"
#include "engine/model/open_weights.hpp"
#include "engine/model/rope_table.hpp"
#include "engine/model/weights.hpp"
#include "engine/run/feature_pool.hpp"
#include "engine/run/kv_cache.hpp"

namespace cogserve {
namespace {

absl::Status option_error(std::string_view option, const std::string& message) {
  return invalid_argument("OPTION_RANGE", option, "--" + std::string(option) + ": " + message);
}

absl::Status check_at_least(std::string_view option, int64_t value, int64_t least) {
  if (value >= least) return absl::OkStatus();
  return option_error(
      option, "must be at least " + std::to_string(least) + ", got " + std::to_string(value));
}

absl::Status check_options(const EngineConfig& config, const ModelConfig& model) {
  const std::pair<std::string_view, std::pair<int64_t, int64_t>> rules[] = {
      {"threads", {config.threads, 0}},
      {"block-size", {config.block_size, 1}},
      {"max-num-seqs", {config.max_num_seqs, 1}},
      // Every running sequence decodes in every step.
      {"max-num-batched-tokens", {config.max_num_batched_tokens, config.max_num_seqs}},
      {"max-model-len", {config.max_model_len, 0}},
      {"vision-layers-per-step", {config.vision_layers_per_step, 0}},
      {"max-queue-size", {config.max_queue_size, 0}},
  };
  for (const auto& [option, rule] : rules) {
    if (auto status = check_at_least(option, rule.first, rule.second); !status.ok()) return status;
  }
  if (config.max_model_len > model.max_positions) {
    return option_error("max-model-len", "the model has " + std::to_string(model.max_positions) +
                                             " positions, got " +
                                             std::to_string(config.max_model_len));
  }
  return absl::OkStatus();
}

// So many layers that a slice of the tower costs about as much as a full step of the decoder:
// a new picture then at most doubles the gap between the tokens of running streams.
int vision_slice(const EngineConfig& config, const ModelConfig& model) {
  if (config.vision_layers_per_step > 0) return config.vision_layers_per_step;
  const VisionConfig& vision = model.vision;
  const double tower_layer =
      double(vision.rows()) * vision.hidden *
      (4.0 * vision.hidden + 2.0 * vision.intermediate + 2.0 * vision.rows());
  const double decoder_row =
      double(model.hidden) * (model.qkv_width() + model.hidden + 3.0 * model.intermediate);
  const double step = decoder_row * model.layers * config.max_num_batched_tokens;
  return std::clamp(static_cast<int>(step / tower_layer), 1, vision.layers);
}

SchedulerConfig make_scheduler_config(const EngineConfig& config, const ModelConfig& model,
                                      const MemoryPlan& plan) {
  return {.num_blocks = plan.num_blocks,
          .block_size = config.block_size,
          .max_model_len = plan.max_model_len,
          .max_num_seqs = config.max_num_seqs,
          .max_pictures = plan.max_pictures,
          .max_num_batched_tokens = config.max_num_batched_tokens,
          .vision_layers = model.vision.layers,
          .vision_layers_per_step = vision_slice(config, model),
          .max_itl = config.max_itl,
          .max_queue_size = config.max_queue_size,
          .max_queue_bytes = config.max_queue_bytes,
          .max_queue_time = config.max_queue_time,
          .slow_reader_time = config.slow_reader_time,
          .eos_ids = model.eos_ids};
}

// See EngineInfo.
std::vector<int> decode_batches(const Backend& backend, int max_num_seqs) {
  std::vector<int> sizes;
  if (!backend.works_ahead()) return sizes;
  for (int rows = 1; rows <= max_num_seqs; ++rows) {
    const int size = std::min(backend.padded_rows(rows), max_num_seqs);
    if (sizes.empty() || sizes.back() != size) sizes.push_back(size);
  }
  return sizes;
}

absl::StatusOr<ModelRunner> make_runner(const EngineConfig& config, const ModelConfig& model,
                                        const MemoryPlan& plan, ModelWeights weights,
                                        RopeDtype rope, Backend* backend) {
  auto decoder = Decoder::create(backend, model, std::move(weights.decoder),
                                 config.max_num_batched_tokens, config.max_num_seqs, rope);
  if (!decoder.ok()) return decoder.status();
  auto tower = VisionTower::create(backend, model, std::move(weights.vision));
  if (!tower.ok()) return tower.status();
  auto kv = KvCache::create(backend, model, plan.num_blocks, config.block_size);
  if (!kv.ok()) return kv.status();
  auto pictures = FeaturePool::create(backend, model, plan.picture_places());
  if (!pictures.ok()) return pictures.status();
  return ModelRunner(backend, model, *std::move(decoder), *std::move(tower), *std::move(kv),
                     *std::move(pictures), config.block_size);
}

absl::StatusOr<std::unique_ptr<Engine>> load_and_start(const EngineConfig& config,
                                                       std::unique_ptr<Backend> backend,
                                                       const Engine::Progress& progress,
                                                       Engine::FaultLog fault_log) {
  auto model = read_model_config(config.model_dir);
  if (!model.ok()) return model.status();
  auto generation = read_generation_config(config.model_dir);
  if (!generation.ok()) return generation.status();
  if (auto status = check_options(config, *model); !status.ok()) return status;
  const auto traits = device_traits(config.device);
  if (!traits.ok()) return traits.status();
  auto source = open_weights(config, *model);
  if (!source.ok()) return source.status();
  const auto sizes = measure_weights(*traits, *model, config.formats, source->get());
  if (!sizes.ok()) return sizes.status();
  if (config.bf16_products && traits->activation == DType::kF32 && sizes->stored != DType::kBF16) {
    return option_error("dtype", "bfloat16 wants a checkpoint in bf16, this one is in " +
                                     std::string(dtype_name(sizes->stored)));
  }
  const auto plan =
      plan_memory(*model, config, *sizes, *traits, memory_budget(config, *traits, *backend));
  if (!plan.ok()) return plan.status();
  if (auto status = check_plan(*plan); !status.ok()) return status;
  const auto weight_bytes = static_cast<size_t>(sizes->decoder + sizes->vision);
  if (auto status = backend->reserve_weights(weight_bytes); !status.ok()) return status;

  auto weights = load_weights(backend.get(), *model, source->get(), progress,
                              {.formats = config.formats, .threads = config.threads});
  if (!weights.ok()) return weights.status();
  const std::string stored = (*source)->description();
  const std::string formats = describe_weights(*weights);
  source->reset();  // unmaps the files

  const DType dtype = weights->decoder.embedding.tensor.dtype;
  const RopeDtype rope = resolve_rope_dtype(config.rope_dtype, dtype);
  auto runner = make_runner(config, *model, *plan, *std::move(weights), rope, backend.get());
  if (!runner.ok()) return runner.status();
  const SchedulerConfig limits = make_scheduler_config(config, *model, *plan);
  EngineInfo info{.model = *model,
                  .generation = *generation,
                  .device = backend->description(),
                  .dtype = formats,
                  .weights = stored,
                  .rope_dtype = rope == RopeDtype::kBF16 ? "bf16" : "f32",
                  .max_model_len = limits.max_model_len,
                  .block_size = config.block_size,
                  .num_blocks = plan->num_blocks,
                  .weight_bytes = weight_bytes,
                  .kv_bytes = static_cast<size_t>(plan->kv_cache),
                  .decode_batches = decode_batches(*backend, config.max_num_seqs)};
  if (fault_log) backend->set_notice_log(fault_log);
  return std::make_unique<EngineLoop>(std::move(info), config, limits, std::move(backend),
                                      *std::move(runner), std::move(fault_log));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> Engine::create(const EngineConfig& config,
                                                       const Progress& progress,
                                                       FaultLog fault_log) {
  auto backend = make_backend(config.device, config.threads, config.bf16_products);
  if (!backend.ok()) return backend.status();
  return start_engine(config, *std::move(backend), progress, std::move(fault_log));
}

absl::StatusOr<std::unique_ptr<Engine>> start_engine(const EngineConfig& config,
                                                     std::unique_ptr<Backend> backend,
                                                     const Engine::Progress& progress,
                                                     Engine::FaultLog fault_log) {
  try {
    return load_and_start(config, std::move(backend), progress, std::move(fault_log));
  } catch (const DeviceFault& fault) {
    return make_error(absl::StatusCode::kFailedPrecondition, "DEVICE", "device", fault.what());
  }
}

}  // namespace cogserve
