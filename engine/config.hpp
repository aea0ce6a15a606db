// What an engine is built from: the model's shape (read from config.json) and the operator's
// choices. Every default of the engine stands here, once.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/base/host_weight.hpp"

namespace cogserve {

struct VisionConfig {
  int layers = 0;
  int hidden = 0;
  int heads = 0;
  int intermediate = 0;
  int patch = 14;
  int image_size = 0;  // pixels of one edge
  float layer_norm_eps = 1e-6f;

  int grid() const { return image_size / patch; }
  int rows() const { return grid() * grid() + 1; }                      // class row first
  int image_tokens() const { return (grid() / 2) * (grid() / 2) + 2; }  // with boi and eoi
  int head_dim() const { return hidden / heads; }
};

enum class QuantMethod { kNone, kCogserve, kBitsandbytes, kGptq };

// config.json's `quantization_config`: how quantised weights are stored. Which weights are
// quantised, the checkpoint's tensors say.
struct QuantizationConfig {
  QuantMethod method = QuantMethod::kNone;
  std::string name = {};  // quant_method as written: AutoRound writes kGptq's layout too
  // cogserve and gptq: inputs that share a scale; 0 = all inputs of a row.
  int group_size = 0;
  // gptq: every zero is 8. Else zero = stored zero + zero_offset: 1 in v1, 0 in v2.
  bool symmetric = true;
  int zero_offset = 1;
  bool reordered = false;  // gptq's desc_act
  // bitsandbytes, where it is said.
  std::string codebook = {};  // "fp4" or "nf4"
  std::optional<bool> nested = {};
};

struct ModelConfig {
  int layers = 0;
  int hidden = 0;
  int heads = 0;
  int kv_heads = 0;
  int intermediate = 0;
  int vocab = 0;
  int max_positions = 0;
  float rms_norm_eps = 1e-5f;
  float rope_theta = 500000.0f;
  int32_t bos_id = 0;
  int32_t image_id = 0;  // pad_token_id: stands for every image token
  std::vector<int32_t> eos_ids;
  std::string dtype;          // torch_dtype as written, may be empty
  std::string template_name;  // "chat", "vqa" or "base"
  VisionConfig vision;
  QuantizationConfig quantization;

  int head_dim() const { return hidden / heads; }
  int qkv_width() const { return (heads + 2 * kv_heads) * head_dim(); }
};

// `generation_config.json`: defaults for requests that do not say; absent keys keep these.
struct GenerationConfig {
  float temperature = 1.0f;
  float top_p = 1.0f;
  int top_k = 0;
  float repetition_penalty = 1.0f;
};

enum class RopeDtype { kAuto, kBF16, kF32 };
enum class LoadFormat { kSafetensors, kDummy };

// What dense matrices become while they are loaded; kDense: they stay as the checkpoint has them.
// Embeddings, norms, biases and the tower's two convolutions always stay dense.
struct WeightFormats {
  WeightFormat decoder = WeightFormat::kDense;  // both experts of every layer
  WeightFormat vision = WeightFormat::kDense;   // the tower's layers and the adapter
  WeightFormat head = WeightFormat::kDense;

  bool operator==(const WeightFormats&) const = default;
};

// From the values of --quantization ("none", "int4"), --vision-dtype ("auto": as the decoder,
// "bf16", "int8", "int4") and --lm-head-dtype ("bf16", "int8"); "bf16" stands for dense.
WeightFormats parse_weight_formats(std::string_view quantization, std::string_view vision_dtype,
                                   std::string_view lm_head_dtype);

struct EngineConfig {
  std::string model_dir;
  std::string device = "cpu";
  int threads = 0;             // 0 = one for each core
  bool bf16_products = false;  // on the CPU: see make_backend; on a GPU they always are
  RopeDtype rope_dtype = RopeDtype::kAuto;
  LoadFormat load_format = LoadFormat::kSafetensors;
  WeightFormats formats;
  uint64_t seed = 0;  // of dummy weights, and of requests that bring none

  int64_t gpu_memory = 0;  // bytes that the process may use of a GPU's memory; 0 = all of it
  double gpu_memory_utilization = 1.0;  // the share of that, or of the whole
  size_t kv_cache_bytes = 0;            // 0 = the device's default, or what the plan leaves
  int block_size = 16;
  int max_model_len = 0;  // 0 = the model's max_positions
  int max_num_seqs = 64;
  int max_num_batched_tokens = 512;
  int vision_layers_per_step = 0;  // 0 = chosen so that a slice costs about as much as a full step
  std::chrono::milliseconds max_itl{0};  // target for the gap between tokens, sets slices; 0 = none
  int max_queue_size = 256;
  size_t max_queue_bytes = size_t{512} << 20;
  std::chrono::milliseconds max_queue_time{30000};
  int outbox_tokens = 256;                            // undelivered tokens before a request pauses
  std::chrono::milliseconds slow_reader_time{10000};  // paused so long: ended
};

// Reads and checks `config.json` in `model_dir`; the message names the key and what was got. The
// end tokens of `generation_config.json`, where it has any, replace those of `config.json`.
absl::StatusOr<ModelConfig> read_model_config(const std::string& model_dir);

// Absent file: the defaults above.
absl::StatusOr<GenerationConfig> read_generation_config(const std::string& model_dir);

}  // namespace cogserve
