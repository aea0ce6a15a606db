#include "server/active_calls.hpp"

namespace cogserve {

void ActiveCalls::add(CallTransport* call) {
  const std::lock_guard lock(mutex_);
  calls_.insert(call);
}

void ActiveCalls::remove(CallTransport* call) {
  const std::lock_guard lock(mutex_);
  calls_.erase(call);
  if (calls_.empty()) emptied_.notify_all();
}

size_t ActiveCalls::size() const {
  const std::lock_guard lock(mutex_);
  return calls_.size();
}

bool ActiveCalls::wait_until_empty(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  return emptied_.wait_for(lock, timeout, [this] { return calls_.empty(); });
}

void ActiveCalls::for_each(const std::function<void(CallTransport&)>& visit) {
  const std::lock_guard lock(mutex_);
  for (CallTransport* call : calls_) visit(*call);
}

}  // namespace cogserve
