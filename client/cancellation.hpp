// A switch that ends a running call from another thread. Shared between the caller who may cancel
// and the call, which hangs its own end on it while it runs. Thread-safe; not for use inside a
// signal handler. Once cancelled it stays so: calls made with it afterwards end at once.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>

namespace cogserve::client {

class Cancellation {
 public:
  void cancel();
  bool cancelled() const;

  // Waits until `time`, or less if cancelled. True if cancelled.
  bool wait_until(std::chrono::system_clock::time_point time);

  // Runs `action` when cancelled (at once if that has happened); one action at a time. After
  // detach() returns, the action is not running and will not run.
  void attach(std::function<void()> action);
  void detach();

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool cancelled_ = false;
  std::function<void()> action_;
};

}  // namespace cogserve::client
