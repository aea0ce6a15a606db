#include "server/progress_line.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "server/log.hpp"

namespace cogserve {
namespace {

constexpr int kBarWidth = 40;
constexpr double kMiB = 1 << 20;

}  // namespace

ProgressLine::ProgressLine(std::string what)
    : what_(std::move(what)), terminal_(isatty(STDERR_FILENO) == 1) {}

ProgressLine::~ProgressLine() {
  if (terminal_ && shown_percent_ >= 0) std::fputc('\n', stderr);
}

void ProgressLine::show(int64_t done, int64_t total) {
  const int percent = total > 0 ? static_cast<int>(done * 100 / total) : 100;
  if (terminal_) {
    if (percent != shown_percent_) draw_bar(percent, done, total);
    shown_percent_ = percent;
  } else if (percent / 25 != shown_percent_ / 25 || shown_percent_ < 0) {
    shown_percent_ = percent;
    log_event(LogLevel::kInfo, "loading",
              {{"what", what_},
               {"percent", int64_t{percent}},
               {"bytes", done},
               {"of", total},
               {"gb_per_s", gigabytes_per_second(done)}});
  }
}

void ProgressLine::draw_bar(int percent, int64_t done, int64_t total) {
  std::string bar(kBarWidth, ' ');
  for (int i = 0; i < percent * kBarWidth / 100; ++i) bar[static_cast<size_t>(i)] = '=';
  std::fprintf(stderr, "\r%s [%s] %3d %% of %.1f MiB, %.1f GB/s ", what_.c_str(), bar.c_str(),
               percent, static_cast<double>(total) / kMiB, gigabytes_per_second(done));
  if (done == total) std::fflush(stderr);
}

double ProgressLine::gigabytes_per_second(int64_t done) const {
  const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - begin_;
  return static_cast<double>(done) / 1e9 / std::max(passed.count(), 1e-3);
}

}  // namespace cogserve
