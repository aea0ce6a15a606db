// Whether the server takes calls, and what it answers when it does not.
//
// One for a server; any thread asks, the serving thread changes it. States only go forward:
// loading, serving, then draining or failed.
#pragma once

#include <atomic>

#include "absl/status/status.h"

namespace cogserve {

class Readiness {
 public:
  enum class State { kLoading, kServing, kDraining, kFailed };

  State state() const { return state_.load(std::memory_order_acquire); }

  // Going back is ignored: a server that drains does not serve again.
  void advance(State state);

  // UNAVAILABLE LOADING, DRAINING or ENGINE_RESTARTING, with the time after which to try again.
  absl::Status admit() const;

 private:
  std::atomic<State> state_{State::kLoading};
};

}  // namespace cogserve
