// How long a place in the queue takes, learnt from the requests that left it. Owned by Scheduler.
#pragma once

#include <chrono>
#include <cstdint>

namespace cogserve {

class WaitEstimate {
 public:
  // A request that had `ahead` others before it started after `waited`. Those that had none count
  // too: they say when an overload is over.
  void observe(int ahead, std::chrono::nanoseconds waited);

  // Too few requests have waited yet for a guess that may refuse anybody.
  bool known() const { return observed_ >= 8; }
  // For a request with `ahead` others before it: theirs alone, so that a guess too long refuses
  // nobody.
  std::chrono::nanoseconds expected(int ahead) const { return per_place_ * ahead; }
  // When a refused caller may try again, as jittered_delay spreads it.
  std::chrono::milliseconds retry_delay(int ahead, uint64_t salt) const;

 private:
  std::chrono::nanoseconds per_place_{0};  // moving average
  int observed_ = 0;
};

}  // namespace cogserve
