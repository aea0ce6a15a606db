#include "server/stop_signals.hpp"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include "engine/base/check.hpp"

namespace cogserve {
namespace {

int g_write_end = -1;

extern "C" void on_stop_signal(int number) {
  const int saved_errno = errno;
  const char byte = static_cast<char>(number);
  // A full pipe holds more signals than anybody will take.
  [[maybe_unused]] const ssize_t written = write(g_write_end, &byte, 1);
  errno = saved_errno;
}

}  // namespace

StopSignals::StopSignals() {
  int ends[2];
  check(pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0, "a pipe for signals");
  read_end_ = ends[0];
  g_write_end = ends[1];
  struct sigaction action {};
  action.sa_handler = on_stop_signal;
  action.sa_flags = SA_RESTART;
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
  signal(SIGPIPE, SIG_IGN);
}

std::optional<int> StopSignals::wait(std::chrono::milliseconds timeout) const {
  pollfd ready{read_end_, POLLIN, 0};
  char number = 0;
  // An interrupted poll is one that came too early: the caller asks again.
  if (poll(&ready, 1, static_cast<int>(timeout.count())) <= 0) return std::nullopt;
  if (read(read_end_, &number, 1) != 1) return std::nullopt;
  return number;
}

}  // namespace cogserve
