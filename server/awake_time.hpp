// Since when this process has looked at its clock regularly. One that was stopped, or its whole
// machine, finds every clock late, and nobody is to blame for that. One thread's.
#pragma once

#include <algorithm>
#include <chrono>

#include "engine/request.hpp"

namespace cogserve {

class AwakeTime {
 public:
  // `period`: between two looks.
  explicit AwakeTime(Clock::duration period) : longest_(period + kOversleep) {}

  // True if the last look was too long ago.
  bool overslept() {
    const Clock::time_point now = Clock::now();
    const bool late = now - last_look_ > longest_;
    if (late) since_ = now;
    last_look_ = now;
    return late;
  }

  Clock::time_point since() const { return since_; }
  // How much of a silence can be meant.
  Clock::duration of(Clock::duration silence) const {
    return std::min(silence, Clock::now() - since_);
  }

 private:
  static constexpr std::chrono::milliseconds kOversleep{2000};

  const Clock::duration longest_;
  Clock::time_point last_look_ = Clock::now();
  Clock::time_point since_ = last_look_;
};

}  // namespace cogserve
