#include "engine/token_stream.hpp"

#include "engine/base/check.hpp"

namespace cogserve {

void TokenStream::push(TokenEvent token) {
  if (const Callback ready = deliver(std::move(token))) (*ready)();
}

void TokenStream::finish(EndEvent end) {
  if (const Callback ready = deliver(std::move(end))) (*ready)();
}

TokenStream::Callback TokenStream::deliver(Event event) {
  const bool end = std::holds_alternative<EndEvent>(event);
  Callback ready;
  Callback dropped;  // dies after the lock: it may own whatever the reader captured
  {
    const std::lock_guard lock(mutex_);
    check(!finished_, "a stream has one end and nothing after it");
    finished_ = end;
    events_.push_back(std::move(event));
    if (!end) undelivered_.fetch_add(1, std::memory_order_relaxed);
    if (reader_idle_) ready = ready_;
    reader_idle_ = false;
    if (end) dropped = std::move(ready_);
  }
  arrived_.notify_all();
  return ready;
}

TokenStream::Event TokenStream::take(bool* made_room) {
  Event event = std::move(events_.front());
  events_.pop_front();
  *made_room = std::holds_alternative<TokenEvent>(event) &&
               undelivered_.fetch_sub(1, std::memory_order_relaxed) == capacity_;
  return event;
}

std::optional<TokenStream::Event> TokenStream::pop() {
  std::optional<Event> event;
  bool made_room = false;
  {
    const std::lock_guard lock(mutex_);
    reader_idle_ = events_.empty();
    if (!events_.empty()) event = take(&made_room);
  }
  if (made_room && wake_engine_) wake_engine_();
  return event;
}

TokenStream::Event TokenStream::wait() {
  bool made_room = false;
  std::unique_lock lock(mutex_);
  check(!finished_ || !events_.empty(), "nothing comes after the end");
  arrived_.wait(lock, [this] { return !events_.empty(); });
  Event event = take(&made_room);
  lock.unlock();
  if (made_room && wake_engine_) wake_engine_();
  return event;
}

void TokenStream::set_ready_callback(std::function<void()> ready) {
  const auto callback = std::make_shared<const std::function<void()>>(std::move(ready));
  bool call_now;
  {
    const std::lock_guard lock(mutex_);
    call_now = !events_.empty();
    reader_idle_ = !call_now;
    if (!finished_) ready_ = callback;
  }
  if (call_now) (*callback)();
}

void TokenStream::cancel() {
  if (cancelled_.exchange(true, std::memory_order_relaxed)) return;
  if (wake_engine_) wake_engine_();
}

}  // namespace cogserve
