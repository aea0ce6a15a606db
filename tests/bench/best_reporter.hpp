// Google Benchmark's console output, which also keeps the fastest repetition of each benchmark for
// a table: other work on the machine can only slow a run.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

namespace cogserve::bench {

class BestReporter : public benchmark::ConsoleReporter {
 public:
  void ReportRuns(const std::vector<Run>& runs) override {
    for (const Run& run : runs) {
      if (run.run_type != Run::RT_Iteration || run.iterations == 0) continue;
      const double seconds = run.real_accumulated_time / static_cast<double>(run.iterations);
      double& best = best_.try_emplace(run.run_name.function_name, seconds).first->second;
      best = std::min(best, seconds);
    }
    ConsoleReporter::ReportRuns(runs);
  }

  // 0 when it did not run.
  double seconds(const std::string& name) const {
    const auto found = best_.find(name);
    return found == best_.end() ? 0.0 : found->second;
  }

 private:
  std::map<std::string, double> best_;
};

}  // namespace cogserve::bench
