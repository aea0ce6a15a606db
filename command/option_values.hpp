// Text to typed values, for options: integers with size suffixes, numbers, durations, booleans.
// Pure functions. An error says what is accepted and what was got.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace cogserve {

// "8192", "8k" (8000), "8K", "8Ki" or "8KiB" (8192), "8kB" or "8KB" (8000), "1.5GiB"; also m, g, t.
absl::StatusOr<int64_t> parse_integer(std::string_view text);
absl::StatusOr<uint64_t> parse_unsigned(std::string_view text);

// "0.5", "1e-3", "inf"; never NaN.
absl::StatusOr<double> parse_number(std::string_view text);

// "250ms", "30s", "1.5m", "2h"; a bare number is seconds. Not negative.
absl::StatusOr<std::chrono::milliseconds> parse_duration(std::string_view text);

// true, false, 1, 0, yes, no, on, off.
absl::StatusOr<bool> parse_bool(std::string_view text);

// The shortest text that parse_duration reads back: "30s", "250ms".
std::string duration_text(std::chrono::milliseconds duration);

}  // namespace cogserve
