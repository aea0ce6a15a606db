#include "server/access/caller_quota.hpp"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/error.hpp"

namespace cogserve {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kCallsRetry{1000};  // a call's end cannot be foreseen

absl::Status over_quota(std::string_view what, std::string_view limit, std::string_view got,
                        milliseconds wait) {
  return with_limit(
      with_retry_delay(make_error(absl::StatusCode::kResourceExhausted, "TENANT_QUOTA", "", what),
                       wait),
      limit, got);
}

}  // namespace

CallerQuota::Place::Place(Place&& other) noexcept { *this = std::move(other); }

CallerQuota::Place& CallerQuota::Place::operator=(Place&& other) noexcept {
  const Place old(std::exchange(quota_, std::exchange(other.quota_, nullptr)), std::move(caller_));
  caller_ = std::move(other.caller_);
  return *this;
}

CallerQuota::Place::~Place() {
  if (quota_ != nullptr) quota_->give_back(caller_);
}

absl::StatusOr<CallerQuota::Place> CallerQuota::take(const std::string& name,
                                                     Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  if (callers_.size() >= kMaxCallers) forget_idle(now);
  const auto [found, is_new] = callers_.try_emplace(name, Caller{0, burst(), now});
  Caller& caller = found->second;
  if (limits_.max_calls > 0 && caller.calls >= limits_.max_calls) {
    return over_quota("this caller has as many calls running and waiting as one may have",
                      std::to_string(limits_.max_calls), std::to_string(caller.calls + 1),
                      kCallsRetry);
  }
  if (limits_.max_rate > 0) {
    fill(&caller, now);
    if (caller.tokens < 1) {
      const auto wait = std::chrono::duration<double>((1 - caller.tokens) / limits_.max_rate);
      return over_quota("this caller's calls come too fast",
                        absl::StrCat(limits_.max_rate, " a second"),
                        absl::StrCat("one more after ", static_cast<int>(burst()), " at once"),
                        std::chrono::ceil<milliseconds>(wait));
    }
    caller.tokens -= 1;
  }
  ++caller.calls;
  return Place(this, name);
}

void CallerQuota::fill(Caller* caller, Clock::time_point now) const {
  const double seconds = std::chrono::duration<double>(now - caller->filled).count();
  caller->tokens = std::min(burst(), caller->tokens + std::max(seconds, 0.0) * limits_.max_rate);
  caller->filled = std::max(caller->filled, now);
}

void CallerQuota::forget_idle(Clock::time_point now) {
  for (auto it = callers_.begin(); it != callers_.end();) {
    fill(&it->second, now);
    const bool idle = it->second.calls == 0 && it->second.tokens >= burst();
    it = idle ? callers_.erase(it) : std::next(it);
  }
}

void CallerQuota::give_back(const std::string& caller) {
  const std::lock_guard lock(mutex_);
  --callers_.at(caller).calls;
}

}  // namespace cogserve
