// SIGTERM and SIGINT, to be taken one at a time by whoever runs the process.
//
// A handler and a pipe, not a blocked mask: libraries start threads before main() that would not
// block them. One for a process; SIGPIPE is ignored with it.
#pragma once

#include <chrono>
#include <optional>

namespace cogserve {

class StopSignals {
 public:
  StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  // The signal that has come, or comes within `timeout`.
  std::optional<int> wait(std::chrono::milliseconds timeout) const;

 private:
  int read_end_ = -1;
};

}  // namespace cogserve
