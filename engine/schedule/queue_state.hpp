// What waits to start, whose it is, and whether there is room for more: what the scheduler knows,
// for those who may refuse a request before they have spent anything on it. A value.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <unordered_map>

#include "absl/status/status.h"
#include "engine/schedule/scheduler_config.hpp"
#include "engine/schedule/wait_estimate.hpp"

namespace cogserve {

class QueueState {
 public:
  // A request of `caller` (0: nobody knows whose) with so many bytes of pixels and ids.
  void add(uint64_t caller, size_t bytes);
  void remove(uint64_t caller, size_t bytes);
  int requests() const { return all_.requests; }
  int requests_of(uint64_t caller) const;  // that is known

  // RESOURCE_EXHAUSTED QUEUE_FULL or, where `caller` has its queue_share, TENANT_QUOTA,
  // with the time after which to try again, if a request of `more_bytes` would be too much. `salt`
  // spreads those times.
  absl::Status check_room(const SchedulerConfig& limits, uint64_t caller, size_t more_bytes,
                          uint64_t salt) const;

  WaitEstimate wait = {};  // of the kind of request that waits longer
  int ahead = 0;           // of that kind

 private:
  struct Part {
    int requests = 0;
    size_t bytes = 0;
  };

  absl::Status refuse(const char* reason, const char* what, int64_t limit, int64_t got,
                      uint64_t salt) const;

  Part all_;
  std::unordered_map<uint64_t, Part> callers_;  // those that are known and have something here
};

}  // namespace cogserve
