// The mailbox of one request: the engine thread pushes, one reader pops.
//
// Shared by both sides through a shared_ptr. Every method is thread-safe and none blocks, except
// `wait`, which is for callers that own a thread (tests, command line), never for gRPC threads.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <variant>

#include "engine/request.hpp"

namespace cogserve {

class TokenStream {
 public:
  using Event = std::variant<TokenEvent, EndEvent>;

  // `capacity`: tokens that may lie undelivered before `full()`. `wake_engine`, if given, is called
  // on the reader's thread, without locks held, when the reader does what a sleeping engine waits
  // for: it cancels, or takes the token that makes room in a full box.
  explicit TokenStream(int capacity, std::function<void()> wake_engine = {})
      : capacity_(capacity), wake_engine_(std::move(wake_engine)) {}

  // --- the engine's side -----------------------------------------------------------------------
  // Pushing after the end is a broken invariant. The capacity is not enforced here: the
  // scheduler does not plan a sequence whose stream is full, so at most one token lands on top.
  void push(TokenEvent token);
  void finish(EndEvent end);
  // Plain atomic reads: the scheduler asks each stream at every step.
  // `coming`: tokens that are as good as pushed.
  bool full(int coming = 0) const {
    return undelivered_.load(std::memory_order_relaxed) + coming >= capacity_;
  }
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }

  // --- the reader's side -----------------------------------------------------------------------
  // Next event, or nothing yet. After the EndEvent there is never another.
  std::optional<Event> pop();
  // Blocks until there is one. Waiting for more after the EndEvent is a broken invariant.
  Event wait();
  // `ready` is called (on the engine thread, without locks held) when an event arrives while the
  // reader had found the box empty; at once, on the calling thread, if there is one already. So a
  // reader that pops until it gets nothing never misses an event. It must be quick and may be
  // called once more after the reader has gone: capture shared state. It is dropped with the
  // EndEvent, so a cycle through it does not last.
  void set_ready_callback(std::function<void()> ready);
  // The request is not wanted any more. The engine ends it within one step; the EndEvent still
  // comes, with CANCELLED unless the request was ending anyway. Idempotent.
  void cancel();

 private:
  using Callback = std::shared_ptr<const std::function<void()>>;

  // Adds an event; returns the callback if it is due.
  Callback deliver(Event event);
  // The oldest event, and whether taking it made room in a full box. With `mutex_` held.
  Event take(bool* made_room);

  const int capacity_;
  const std::function<void()> wake_engine_;
  std::atomic<int> undelivered_{0};  // tokens in `events_`
  std::atomic<bool> cancelled_{false};

  std::mutex mutex_;  // guards all below
  std::condition_variable arrived_;
  std::deque<Event> events_;
  Callback ready_;
  bool reader_idle_ = true;  // the reader saw the box empty, or has not looked yet
  bool finished_ = false;
};

}  // namespace cogserve
