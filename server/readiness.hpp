// Whether the server takes calls, and what it answers when it does not.
//
// One for a server; any thread asks, the serving thread and the watch change it. States only go
// forward: loading, serving, then draining or failed.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string_view>

#include "absl/status/status.h"

namespace cogserve {

class Readiness {
 public:
  enum class State { kLoading, kServing, kDraining, kFailed };

  State state() const { return state_.load(std::memory_order_acquire); }

  // Going back is ignored: a server that drains does not serve again.
  void advance(State state);

  // A serving engine makes no progress, or does so again.
  void set_stalled(bool stalled) { stalled_.store(stalled, std::memory_order_relaxed); }

  // UNAVAILABLE LOADING, DRAINING, ENGINE_STALLED or ENGINE_RESTARTING, with the time after which
  // to try again.
  absl::Status admit() const;

 private:
  absl::Status unavailable(std::string_view reason, std::string_view message,
                           std::chrono::milliseconds retry) const;

  std::atomic<State> state_{State::kLoading};
  std::atomic<bool> stalled_{false};
  mutable std::atomic<uint64_t> refused_{0};
};

}  // namespace cogserve
