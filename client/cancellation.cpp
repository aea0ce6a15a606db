#include "client/cancellation.hpp"

#include <utility>

namespace cogserve::client {

void Cancellation::cancel() {
  const std::lock_guard lock(mutex_);
  cancelled_ = true;
  // Under the lock, so that detach() can promise that the action is over.
  if (action_) action_();
  changed_.notify_all();
}

bool Cancellation::cancelled() const {
  const std::lock_guard lock(mutex_);
  return cancelled_;
}

bool Cancellation::wait_until(std::chrono::system_clock::time_point time) {
  std::unique_lock lock(mutex_);
  return changed_.wait_until(lock, time, [this] { return cancelled_; });
}

void Cancellation::attach(std::function<void()> action) {
  const std::lock_guard lock(mutex_);
  action_ = std::move(action);
  if (cancelled_) action_();
}

void Cancellation::detach() {
  const std::lock_guard lock(mutex_);
  action_ = nullptr;
}

}  // namespace cogserve::client
