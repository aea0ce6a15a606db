#include "engine/schedule/queue_state.hpp"

#include "absl/strings/str_cat.h"
#include "engine/base/error.hpp"

namespace cogserve {

absl::Status QueueState::check_room(const SchedulerConfig& limits, size_t more_bytes,
                                    uint64_t salt) const {
  const auto refuse = [&](const char* what, const std::string& limit, const std::string& got) {
    return with_limit(
        with_retry_delay(
            make_error(absl::StatusCode::kResourceExhausted, "QUEUE_FULL", "",
                       absl::StrCat("the queue ", what, "; got ", got, ", the limit is ", limit)),
            wait.retry_delay(ahead, salt)),
        limit, got);
  };
  if (requests >= limits.max_queue_size) {
    return refuse("holds as many requests as it may", absl::StrCat(limits.max_queue_size),
                  absl::StrCat(requests + 1));
  }
  if (requests > 0 && bytes + more_bytes > limits.max_queue_bytes) {
    return refuse("holds as many bytes as it may", absl::StrCat(limits.max_queue_bytes),
                  absl::StrCat(bytes + more_bytes));
  }
  return absl::OkStatus();
}

}  // namespace cogserve
