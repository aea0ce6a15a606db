#include "engine/base/error.hpp"

#include <algorithm>
#include <charconv>

#include "absl/strings/cord.h"
#include "absl/strings/string_view.h"

namespace cogserve {
namespace {

constexpr char kReasonUrl[] = "cogserve/reason";
constexpr char kFieldUrl[] = "cogserve/field";
constexpr char kRetryUrl[] = "cogserve/retry-ms";
constexpr char kLimitUrl[] = "cogserve/limit";
constexpr char kGotUrl[] = "cogserve/got";
constexpr char kPhaseUrl[] = "cogserve/phase";
constexpr char kTokensUrl[] = "cogserve/tokens-delivered";

// absl::string_view is a type of its own where abseil was built as C++14.
absl::string_view view(std::string_view text) { return {text.data(), text.size()}; }

std::string payload(const absl::Status& status, const char* url) {
  const auto cord = status.GetPayload(url);
  return cord.has_value() ? std::string(*cord) : std::string();
}

}  // namespace

absl::Status make_error(absl::StatusCode code, std::string_view reason, std::string_view field,
                        std::string_view message) {
  absl::Status status(code, view(message));
  status.SetPayload(kReasonUrl, absl::Cord(view(reason)));
  if (!field.empty()) status.SetPayload(kFieldUrl, absl::Cord(view(field)));
  return status;
}

absl::Status in_file(const std::string& file, const absl::Status& status) {
  if (file.empty()) return status;
  return make_error(status.code(), error_reason(status), error_field(status),
                    file + ": " + std::string(status.message()));
}

absl::Status invalid_argument(std::string_view reason, std::string_view field,
                              std::string_view message) {
  return make_error(absl::StatusCode::kInvalidArgument, reason, field, message);
}

absl::Status with_retry_delay(absl::Status status, std::chrono::milliseconds delay) {
  status.SetPayload(kRetryUrl, absl::Cord(std::to_string(delay.count())));
  return status;
}

std::chrono::milliseconds jittered_delay(std::chrono::nanoseconds wait, uint64_t salt) {
  using std::chrono::milliseconds;
  const auto spread = static_cast<int64_t>((salt * 0x9e3779b97f4a7c15u) >> 56);  // 0..255
  const std::chrono::nanoseconds jittered = wait / 1024 * (896 + spread);        // x 0.875..1.125
  return std::clamp(std::chrono::duration_cast<milliseconds>(jittered), milliseconds(50),
                    milliseconds(30000));
}

absl::Status with_limit(absl::Status status, std::string_view limit, std::string_view got) {
  status.SetPayload(kLimitUrl, absl::Cord(view(limit)));
  status.SetPayload(kGotUrl, absl::Cord(view(got)));
  return status;
}

std::string format_ms(std::chrono::nanoseconds time) {
  return std::to_string(std::chrono::ceil<std::chrono::milliseconds>(time).count()) + " ms";
}

absl::Status with_phase(absl::Status status, std::string_view phase) {
  status.SetPayload(kPhaseUrl, absl::Cord(view(phase)));
  return status;
}

absl::Status after_tokens(absl::Status status, int64_t tokens) {
  status.ErasePayload(kRetryUrl);
  status.SetPayload(kTokensUrl, absl::Cord(std::to_string(tokens)));
  return status;
}

std::string error_reason(const absl::Status& status) { return payload(status, kReasonUrl); }

std::string error_field(const absl::Status& status) { return payload(status, kFieldUrl); }

std::string error_limit(const absl::Status& status) { return payload(status, kLimitUrl); }

std::string error_got(const absl::Status& status) { return payload(status, kGotUrl); }

std::string error_tokens(const absl::Status& status) { return payload(status, kTokensUrl); }

std::string error_phase(const absl::Status& status) { return payload(status, kPhaseUrl); }

std::optional<std::chrono::milliseconds> error_retry_delay(const absl::Status& status) {
  const std::string text = payload(status, kRetryUrl);
  int64_t ms = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), ms);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return std::chrono::milliseconds(ms);
}

}  // namespace cogserve
