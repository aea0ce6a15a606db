// The file behind --config: one map from flag names to values, in YAML or (*.json) JSON.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace cogserve {

// A key and its values as text: one, or as many as its list has.
using ConfigEntry = std::pair<std::string, std::vector<std::string>>;

// In the file's order. INVALID_ARGUMENT names the file, the key, and what is wrong with it.
absl::StatusOr<std::vector<ConfigEntry>> read_config_file(const std::string& path);

}  // namespace cogserve
