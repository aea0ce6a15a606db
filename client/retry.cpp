#include "client/retry.hpp"

#include <algorithm>

namespace cogserve::client {
namespace {

// A server that says more is not worth waiting for, but the wait must not overflow either.
constexpr std::chrono::milliseconds kLongestDelay = std::chrono::hours(24);

}  // namespace

std::optional<std::chrono::milliseconds> retry_delay(const Error& error, int attempt, int retries,
                                                     double jitter) {
  using std::chrono::milliseconds;
  if (attempt >= retries) return std::nullopt;
  // gRPC itself ends oversized messages with RESOURCE_EXHAUSTED; those carry no delay and would
  // fail again.
  const bool worth_it = error.code == Code::kUnavailable ||
                        (error.code == Code::kResourceExhausted && error.retry_after.has_value());
  if (!worth_it) return std::nullopt;
  const milliseconds backoff =
      std::min(milliseconds(100) * (1 << std::min(attempt, 6)), milliseconds(5000));
  const milliseconds delay =
      std::clamp(error.retry_after.value_or(backoff), milliseconds(0), kLongestDelay);
  return delay +
         milliseconds(static_cast<int64_t>(static_cast<double>(delay.count()) * 0.25 * jitter));
}

}  // namespace cogserve::client
