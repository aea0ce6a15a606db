// Ends the process if it is not destroyed in time: a shutdown that hangs must not look alive.
#pragma once

#include <unistd.h>

#include <condition_variable>
#include <mutex>
#include <thread>

#include "engine/request.hpp"
#include "server/log.hpp"

namespace cogserve {

class ShutdownWatchdog {
 public:
  // `exit_code` 0: no call is left, so that nobody loses an answer.
  ShutdownWatchdog(Clock::time_point end, int exit_code)
      : thread_([this, end, exit_code] {
          std::unique_lock lock(mutex_);
          if (done_.wait_until(lock, end, [this] { return is_done_; })) return;
          if (exit_code == 0) {
            log_event(LogLevel::kWarning, "stopped",
                      {{"while", "the engine was still computing for calls that have ended"}});
          } else {
            log_event(LogLevel::kError, "shutdown.stuck");
          }
          _exit(exit_code);
        }) {}

  ~ShutdownWatchdog() {
    {
      const std::lock_guard lock(mutex_);
      is_done_ = true;
    }
    done_.notify_all();
    thread_.join();
  }

 private:
  std::mutex mutex_;
  std::condition_variable done_;
  bool is_done_ = false;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace cogserve
