// The flags that decide what a model takes of a device's memory: of `serve`, `plan` and `quantize`.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "command/option_table.hpp"
#include "engine/config.hpp"

namespace cogserve {

// The demo model: beside an installed binary, or where it was built.
std::string default_model_dir();

// --model and --device.
void add_model_flags(EngineConfig* config, OptionTable* table);
// All that the memory plan looks at beside the model itself.
void add_memory_flags(EngineConfig* config, OptionTable* table);

// How dense weights are quantised while they are read.
struct FormatFlags {
  std::string quantization = "none";
  std::string vision_dtype = "auto";
  std::string lm_head_dtype = "bf16";

  void add_to(OptionTable* table);
  WeightFormats formats() const;
};

// INVALID_ARGUMENT names the flag.
absl::Status refuse_flag(const char* flag, const std::string& what);
absl::Status check_flag_range(const char* flag, int64_t value, int64_t low, int64_t high);
absl::Status check_memory_flags(const EngineConfig& config);

}  // namespace cogserve
