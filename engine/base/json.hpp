// parse_json(): the only door through which JSON text enters the process
// (config.json, tokenizer.json, safetensors headers, --config files). A pure function, callable
// from any thread.
#pragma once

#include <string_view>

#include <nlohmann/json_fwd.hpp>

#include "absl/status/statusor.h"

namespace cogserve {

// Deeper nesting than any file we read needs; a crafted file stops here and not on the stack.
inline constexpr int kMaxJsonDepth = 32;

// Parses one whole JSON document (UTF-8). Refuses with InvalidArgument, naming the byte offset:
// syntax errors, invalid UTF-8, numbers out of range, a key that occurs twice in one object, and
// more than `max_depth` open objects and arrays. Neither the check nor the parser recurses.
absl::StatusOr<nlohmann::json> parse_json(std::string_view text, int max_depth = kMaxJsonDepth);

}  // namespace cogserve
