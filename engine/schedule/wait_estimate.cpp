#include "engine/schedule/wait_estimate.hpp"

#include <algorithm>

namespace cogserve {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;

void WaitEstimate::observe(int ahead, nanoseconds waited) {
  const nanoseconds place = std::max(waited, nanoseconds(0)) / (ahead + 1);
  per_place_ = observed_ == 0 ? place : per_place_ + (place - per_place_) / 8;
  if (!known()) ++observed_;
}

milliseconds WaitEstimate::retry_delay(int ahead, uint64_t salt) const {
  const nanoseconds wait = known() ? expected(ahead) : std::chrono::seconds(1);
  const auto spread = static_cast<int64_t>((salt * 0x9e3779b97f4a7c15u) >> 56);  // 0..255
  const nanoseconds jittered = wait / 1024 * (896 + spread);                     // x 0.875..1.125
  return std::clamp(std::chrono::duration_cast<milliseconds>(jittered), milliseconds(50),
                    milliseconds(30000));
}

}  // namespace cogserve
