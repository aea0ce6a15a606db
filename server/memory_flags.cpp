#include "server/memory_flags.hpp"

#include <filesystem>
#include <limits>

#include "absl/strings/str_cat.h"

namespace cogserve {

std::string default_model_dir() {
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::path binary = fs::read_symlink("/proc/self/exe", error);
  const fs::path installed =
      binary.parent_path().parent_path() / "share" / "cogserve" / "models" / "demo";
  if (!error && fs::exists(installed / "config.json", error)) return installed.string();
  return COGSERVE_DEFAULT_MODEL;
}

void add_model_flags(EngineConfig* config, OptionTable* table) {
  table->add("model", &config->model_dir, "DIR",
             "Checkpoint directory: config.json, safetensors, tokenizer.json. Without it, the demo "
             "model.");
  table->add("device", &config->device, "NAME", "Where the model runs: cpu, or cuda:0 and so on.");
}

void add_memory_flags(EngineConfig* config, OptionTable* table) {
  table->add("gpu-memory", &config->gpu_memory, "SIZE",
             "What the process may use of a GPU's memory, driver included; 0: all of it.");
  table->add("gpu-memory-utilization", &config->gpu_memory_utilization, "SHARE",
             "The share of that which is used.");
  table->add("kv-cache-memory-bytes", &config->kv_cache_bytes, "SIZE",
             "Memory of the KV cache; 0: 256 MiB on a CPU, on a GPU all that is left.");
  table->add("max-model-len", &config->max_model_len, "TOKENS",
             "Longest prompt and answer together; 0: what the model was made for.");
  table->add("block-size", &config->block_size, "TOKENS", "Tokens in one block of the KV cache.");
  table->add("max-num-seqs", &config->max_num_seqs, "N", "Sequences that run at the same time.");
  table->add("max-num-batched-tokens", &config->max_num_batched_tokens, "TOKENS",
             "Most tokens in one step: decoding sequences and chunks of prompts.");
}

void FormatFlags::add_to(OptionTable* table) {
  table->add_choice("quantization", &quantization, {"none", "int4"},
                    "int4: the decoder's matrices in 4 bits, groups of 128.");
  table->add_choice("vision-dtype", &vision_dtype, {"auto", "bf16", "int8", "int4"},
                    "The vision tower's matrices; bf16: as the checkpoint has them; auto: as "
                    "--quantization says.");
  table->add_choice("lm-head-dtype", &lm_head_dtype, {"bf16", "int8"},
                    "The output matrix; bf16: as the checkpoint has it.");
}

WeightFormats FormatFlags::formats() const {
  return parse_weight_formats(quantization, vision_dtype, lm_head_dtype);
}

absl::Status refuse_flag(const char* flag, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("--", flag, ": ", what));
}

absl::Status check_flag_range(const char* flag, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return refuse_flag(flag, absl::StrCat("wants ", low, "..", high, ", got ", value));
}

absl::Status check_memory_flags(const EngineConfig& config) {
  constexpr int64_t kMany = std::numeric_limits<int64_t>::max();
  const double share = config.gpu_memory_utilization;
  if (!(share > 0.0 && share <= 1.0)) {
    return refuse_flag("gpu-memory-utilization",
                       absl::StrCat("wants more than 0 and at most 1, got ", share));
  }
  const absl::Status checks[] = {
      check_flag_range("gpu-memory", config.gpu_memory, 0, kMany),
      check_flag_range("max-model-len", config.max_model_len, 0, std::numeric_limits<int>::max()),
      check_flag_range("block-size", config.block_size, 1, 4096),
      check_flag_range("max-num-seqs", config.max_num_seqs, 1, 65536),
      check_flag_range("max-num-batched-tokens", config.max_num_batched_tokens, 1, 1 << 20),
  };
  for (const absl::Status& status : checks) {
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace cogserve
