// Lines on the terminal that change while several answers arrive; where stdout is no terminal,
// each line is written once, when it is final. Thread-safe.
#pragma once

#include <cstddef>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace cogserve::client {

class LiveBoard {
 public:
  // Writes `lines` at once on a terminal.
  LiveBoard(std::vector<std::string> lines, bool terminal);

  // A new text for a line, for the moment or for good.
  void update(size_t line, std::string text);
  void settle(size_t line, std::string text);

 private:
  void redraw(size_t line);
  void print_settled();

  const bool terminal_;
  std::mutex mutex_;
  std::vector<std::string> lines_;
  std::vector<bool> settled_;
  size_t printed_ = 0;  // settled lines written so far, where there is no terminal
};

// `text` followed by blanks up to `columns`; East Asian wide characters count as two.
std::string pad_to(std::string_view text, size_t columns);

}  // namespace cogserve::client
