#include "server/cancel_budget.hpp"

#include <algorithm>
#include <string>

#include "engine/base/error.hpp"

namespace cogserve {

bool CancelBudget::counts(const std::string& peer) const {
  return max_cancels_ > 0 && peer.rfind("unix:", 0) != 0;
}

void CancelBudget::count(const std::string& peer, Clock::time_point now) {
  if (!counts(peer)) return;
  const std::lock_guard lock(mutex_);
  if (windows_.size() >= kMaxPeers) forget_past(now);
  Window& window = windows_[peer];
  if (window.ends <= now) window = {now + kWindow, 0};
  ++window.cancels;
  // Over the limit the refusal lasts a whole window from here.
  if (window.cancels > max_cancels_) window.ends = now + kWindow;
}

absl::Status CancelBudget::check(const std::string& peer, Clock::time_point now) const {
  if (!counts(peer)) return absl::OkStatus();
  const std::lock_guard lock(mutex_);
  const auto found = windows_.find(peer);
  if (found == windows_.end()) return absl::OkStatus();
  const Window& window = found->second;
  if (window.ends <= now || window.cancels <= max_cancels_) return absl::OkStatus();
  const auto wait = std::chrono::ceil<std::chrono::milliseconds>(window.ends - now);
  return with_limit(with_retry_delay(make_error(absl::StatusCode::kResourceExhausted, "CANCEL_RATE",
                                                "", "this connection cancels too many calls"),
                                     wait),
                    std::to_string(max_cancels_) + " in 10 s", std::to_string(window.cancels));
}

void CancelBudget::forget_past(Clock::time_point now) {
  for (auto it = windows_.begin(); it != windows_.end();) {
    it = it->second.ends <= now ? windows_.erase(it) : std::next(it);
  }
}

}  // namespace cogserve
