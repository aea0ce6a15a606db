#include "server/readiness.hpp"

#include "engine/base/error.hpp"

namespace cogserve {

void Readiness::advance(State state) {
  State now = state_.load(std::memory_order_relaxed);
  while (now < state && !state_.compare_exchange_weak(now, state, std::memory_order_acq_rel)) {
  }
}

absl::Status Readiness::unavailable(std::string_view reason, std::string_view message,
                                    std::chrono::milliseconds retry) const {
  const uint64_t salt = refused_.fetch_add(1, std::memory_order_relaxed);
  return with_retry_delay(make_error(absl::StatusCode::kUnavailable, reason, "", message),
                          jittered_delay(retry, salt));
}

absl::Status Readiness::admit() const {
  using std::chrono::milliseconds;
  switch (state()) {
    case State::kServing:
      if (!stalled_.load(std::memory_order_relaxed)) return absl::OkStatus();
      return unavailable("ENGINE_STALLED", "the engine makes no progress", milliseconds(5000));
    case State::kLoading:
      return unavailable("LOADING", "the model is being loaded", milliseconds(2000));
    case State::kDraining:
      return unavailable("DRAINING", "the server is shutting down", milliseconds(500));
    case State::kFailed:
      break;
  }
  return unavailable("ENGINE_RESTARTING", "the engine has failed; the server is about to restart",
                     milliseconds(5000));
}

}  // namespace cogserve
