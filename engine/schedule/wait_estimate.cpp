#include "engine/schedule/wait_estimate.hpp"

#include <algorithm>

#include "engine/base/error.hpp"

namespace cogserve {

using std::chrono::nanoseconds;

void WaitEstimate::observe(int ahead, nanoseconds waited) {
  const nanoseconds place = std::max(waited, nanoseconds(0)) / (ahead + 1);
  per_place_ = observed_ == 0 ? place : per_place_ + (place - per_place_) / 8;
  if (!known()) ++observed_;
}

std::chrono::milliseconds WaitEstimate::retry_delay(int ahead, uint64_t salt) const {
  return jittered_delay(known() ? expected(ahead) : std::chrono::seconds(1), salt);
}

}  // namespace cogserve
