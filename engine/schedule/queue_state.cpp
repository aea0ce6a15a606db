#include "engine/schedule/queue_state.hpp"

#include "absl/strings/str_cat.h"
#include "engine/base/error.hpp"
#include "engine/base/sharing.hpp"

namespace cogserve {

void QueueState::add(uint64_t caller, size_t bytes) {
  if (caller != 0) {
    Part& part = callers_[caller];  // may throw: before anything is counted
    ++part.requests;
    part.bytes += bytes;
  }
  ++all_.requests;
  all_.bytes += bytes;
}

int QueueState::requests_of(uint64_t caller) const {
  const auto part = callers_.find(caller);
  return part == callers_.end() ? 0 : part->second.requests;
}

void QueueState::remove(uint64_t caller, size_t bytes) {
  --all_.requests;
  all_.bytes -= bytes;
  const auto part = callers_.find(caller);
  if (part == callers_.end()) return;
  part->second.bytes -= bytes;
  if (--part->second.requests == 0) callers_.erase(part);
}

absl::Status QueueState::check_room(const SchedulerConfig& limits, uint64_t caller,
                                    size_t more_bytes, uint64_t salt) const {
  const int64_t places = limits.max_queue_size;
  const auto room = static_cast<int64_t>(limits.max_queue_bytes);
  const auto bytes = static_cast<int64_t>(all_.bytes);
  const auto more = static_cast<int64_t>(more_bytes);
  if (all_.requests >= places) {
    return refuse("QUEUE_FULL", "the queue holds as many requests as it may", places,
                  all_.requests + 1, salt);
  }
  if (all_.requests > 0 && bytes + more > room) {
    return refuse("QUEUE_FULL", "the queue holds as many bytes as it may", room, bytes + more,
                  salt);
  }
  const auto found = callers_.find(caller);
  if (found == callers_.end()) return absl::OkStatus();
  const Part& own = found->second;
  const int64_t own_places = queue_share(own.requests, places - all_.requests);
  if (own.requests + 1 > own_places) {
    return refuse("TENANT_QUOTA", "this caller's share of the queue's places is used up",
                  own_places, own.requests + 1, salt);
  }
  const auto own_bytes = static_cast<int64_t>(own.bytes);
  const int64_t own_room = queue_share(own_bytes, room - bytes);
  if (own_bytes + more > own_room) {
    return refuse("TENANT_QUOTA", "this caller's share of the queue's bytes is used up", own_room,
                  own_bytes + more, salt);
  }
  return absl::OkStatus();
}

absl::Status QueueState::refuse(const char* reason, const char* what, int64_t limit, int64_t got,
                                uint64_t salt) const {
  const absl::Status refused =
      make_error(absl::StatusCode::kResourceExhausted, reason, "",
                 absl::StrCat(what, "; got ", got, ", the limit is ", limit));
  return with_limit(with_retry_delay(refused, wait.retry_delay(ahead, salt)), absl::StrCat(limit),
                    absl::StrCat(got));
}

}  // namespace cogserve
