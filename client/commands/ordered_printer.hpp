// Text of several answers that arrive at the same time, written to stdout one after the other: the
// first unfinished one as it comes, the others when their turn is there. Thread-safe.
#pragma once

#include <cstddef>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace cogserve::client {

class OrderedPrinter {
 public:
  explicit OrderedPrinter(size_t count);

  void write(size_t index, std::string_view text);

  // No more text for `index`.
  void finish(size_t index);

 private:
  struct Slot {
    std::string waiting;
    bool finished = false;
  };

  std::mutex mutex_;
  std::vector<Slot> slots_;
  size_t current_ = 0;
};

}  // namespace cogserve::client
