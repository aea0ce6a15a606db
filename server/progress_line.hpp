// How far loading has come: a bar on a terminal, a log line every quarter elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace cogserve {

class ProgressLine {
 public:
  explicit ProgressLine(std::string what);
  // Ends the bar's line.
  ~ProgressLine();

  void show(int64_t done, int64_t total);

 private:
  void draw_bar(int percent, int64_t done, int64_t total);
  double gigabytes_per_second(int64_t done) const;

  const std::string what_;
  const bool terminal_;
  const std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  int shown_percent_ = -1;
};

}  // namespace cogserve
