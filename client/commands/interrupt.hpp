// Ctrl-C as a function call. While an object lives, SIGINT does not end the process; `action` runs
// on the object's own thread instead. Make it before the first Client, so that gRPC's threads leave
// the signal alone.
#pragma once

#include <csignal>
#include <functional>
#include <thread>

namespace cogserve::client {

class Interrupt {
 public:
  explicit Interrupt(std::function<void()> action);
  ~Interrupt();

  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

 private:
  void watch();

  std::function<void()> action_;
  sigset_t old_mask_;
  int signal_fd_;
  int stop_fd_;
  std::thread thread_;
};

}  // namespace cogserve::client
