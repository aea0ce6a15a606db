// What waits to start, and whether there is room for more: what the scheduler knows, for those who
// may refuse a request before they have spent anything on it. A value.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "engine/schedule/scheduler_config.hpp"
#include "engine/schedule/wait_estimate.hpp"

namespace cogserve {

struct QueueState {
  int requests = 0;
  size_t bytes = 0;        // of pixels and ids
  WaitEstimate wait = {};  // of the kind of request that waits longer
  int ahead = 0;           // of that kind

  // RESOURCE_EXHAUSTED QUEUE_FULL, with the time after which to try again, if a request of
  // `more_bytes` would be too much. `salt` spreads those times.
  absl::Status check_room(const SchedulerConfig& limits, size_t more_bytes, uint64_t salt) const;
};

}  // namespace cogserve
