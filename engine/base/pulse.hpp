// Shows from another thread whether work gets done: what a watchdog looks at.
#pragma once

#include <atomic>
#include <chrono>

namespace cogserve {

class Pulse {
 public:
  using Clock = std::chrono::steady_clock;

  // Something got done, and more is under way.
  void beat() { last_.store(Clock::now(), std::memory_order_relaxed); }
  // Nothing is under way.
  void rest() { last_.store(kResting, std::memory_order_relaxed); }

  // Time since the last beat; zero at rest.
  Clock::duration silence() const {
    const Clock::time_point last = last_.load(std::memory_order_relaxed);
    return last == kResting ? Clock::duration::zero() : Clock::now() - last;
  }

 private:
  static constexpr Clock::time_point kResting = Clock::time_point::min();

  std::atomic<Clock::time_point> last_{kResting};
};

}  // namespace cogserve
