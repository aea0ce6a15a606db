#include "command/option_values.hpp"

#include <charconv>
#include <cmath>
#include <limits>
#include <optional>

#include "absl/status/status.h"

namespace cogserve {
namespace {

absl::Status refuse(const char* wanted, std::string_view got) {
  return absl::InvalidArgumentError(std::string("wants ") + wanted + ", got \"" + std::string(got) +
                                    "\"");
}

constexpr char kIntegerForm[] = "an integer such as 64, 8k, 8Ki or 2GiB";

// What a suffix multiplies by: lower case counts in thousands, upper case in 1024s unless a plain
// B follows ("GB" is decimal, "GiB" and "G" are binary).
std::optional<uint64_t> suffix_unit(std::string_view suffix) {
  if (suffix.empty()) return 1;
  constexpr std::string_view kLetters = "kmgt";
  const bool upper = suffix[0] >= 'A' && suffix[0] <= 'Z';
  const char letter = upper ? static_cast<char>(suffix[0] - 'A' + 'a') : suffix[0];
  const size_t power = kLetters.find(letter);
  if (power == std::string_view::npos) return std::nullopt;
  const std::string_view rest = suffix.substr(1);
  const bool binary = rest == "i" || rest == "iB" || (rest.empty() && upper);
  if (!binary && !rest.empty() && rest != "B") return std::nullopt;
  uint64_t unit = 1;
  for (size_t i = 0; i <= power; ++i) unit *= binary ? 1024 : 1000;
  return unit;
}

// Digits with an optional fraction; the rest is the suffix.
std::string_view split_suffix(std::string_view text, std::string_view* suffix) {
  const size_t end = text.find_first_not_of("0123456789.");
  *suffix = end == std::string_view::npos ? std::string_view() : text.substr(end);
  return text.substr(0, end);
}

std::optional<double> decimal(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// Without a sign. Exact: a fraction must come out as a whole number.
std::optional<uint64_t> magnitude(std::string_view text) {
  std::string_view suffix;
  const std::string_view digits = split_suffix(text, &suffix);
  const std::optional<uint64_t> unit = suffix_unit(suffix);
  if (!unit.has_value() || digits.empty()) return std::nullopt;
  if (digits.find('.') == std::string_view::npos) {
    uint64_t value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
    if (value > std::numeric_limits<uint64_t>::max() / *unit) return std::nullopt;
    return value * *unit;
  }
  const std::optional<double> value = decimal(digits);
  if (!value.has_value()) return std::nullopt;
  const double product = *value * static_cast<double>(*unit);
  if (product != std::floor(product) || product > 0x1p53) return std::nullopt;
  return static_cast<uint64_t>(product);
}

}  // namespace

absl::StatusOr<uint64_t> parse_unsigned(std::string_view text) {
  const std::optional<uint64_t> value = magnitude(text);
  if (!value.has_value()) return refuse(kIntegerForm, text);
  return *value;
}

absl::StatusOr<int64_t> parse_integer(std::string_view text) {
  const bool negative = !text.empty() && text[0] == '-';
  const std::optional<uint64_t> value = magnitude(negative ? text.substr(1) : text);
  constexpr uint64_t kMax = std::numeric_limits<int64_t>::max();
  if (!value.has_value() || *value > kMax) return refuse(kIntegerForm, text);
  return negative ? -static_cast<int64_t>(*value) : static_cast<int64_t>(*value);
}

absl::StatusOr<double> parse_number(std::string_view text) {
  const std::optional<double> value = decimal(text);
  if (!value.has_value() || std::isnan(*value)) return refuse("a number", text);
  return *value;
}

absl::StatusOr<std::chrono::milliseconds> parse_duration(std::string_view text) {
  std::string_view suffix;
  const std::optional<double> value = decimal(split_suffix(text, &suffix));
  double unit = 0;
  if (suffix.empty() || suffix == "s") unit = 1e3;
  if (suffix == "ms") unit = 1;
  if (suffix == "m") unit = 60e3;
  if (suffix == "h") unit = 3600e3;
  constexpr double kMaxMs = 1e12;  // some 30 years: far from any clock's overflow
  if (!value.has_value() || unit == 0 || *value * unit > kMaxMs) {
    return refuse("a duration such as 250ms, 30s, 5m or 2h", text);
  }
  return std::chrono::milliseconds(std::llround(*value * unit));
}

absl::StatusOr<bool> parse_bool(std::string_view text) {
  if (text == "true" || text == "1" || text == "yes" || text == "on") return true;
  if (text == "false" || text == "0" || text == "no" || text == "off") return false;
  return refuse("true or false", text);
}

std::string duration_text(std::chrono::milliseconds duration) {
  const int64_t ms = duration.count();
  if (ms != 0 && ms % 3600000 == 0) return std::to_string(ms / 3600000) + "h";
  if (ms != 0 && ms % 60000 == 0) return std::to_string(ms / 60000) + "m";
  if (ms % 1000 == 0) return std::to_string(ms / 1000) + "s";
  return std::to_string(ms) + "ms";
}

}  // namespace cogserve
