// What wakes the engine thread when it has nothing to run: a flag with a condition variable.
//
// Shared with every TokenStream, whose reader may ring after the engine has gone. Thread-safe.
#pragma once

#include <condition_variable>
#include <mutex>

#include "engine/request.hpp"

namespace cogserve {

class Doorbell {
 public:
  void ring() {
    {
      const std::lock_guard lock(mutex_);
      rung_ = true;
    }
    waiter_.notify_one();
  }

  // Returns at `deadline` or when it has been rung since the last wait. One waiter.
  void wait_until(Clock::time_point deadline) {
    std::unique_lock lock(mutex_);
    const auto rung = [this] { return rung_; };
    // wait_until(time_point::max()) overflows in some standard libraries.
    if (deadline == Clock::time_point::max()) {
      waiter_.wait(lock, rung);
    } else {
      waiter_.wait_until(lock, deadline, rung);
    }
    rung_ = false;
  }

 private:
  std::mutex mutex_;
  std::condition_variable waiter_;
  bool rung_ = false;
};

}  // namespace cogserve
