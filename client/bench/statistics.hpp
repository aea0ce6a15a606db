// From the records of a load test to its figures. Pure functions.
//
// Definitions: TTFT is sending to the first non-empty text; E2EL sending to the end of the stream;
// TPOT (E2EL - TTFT) / (output tokens - 1) of each request; ITL every gap between pieces of a
// stream. Token counts are the server's. Only completed requests enter the latencies.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "client/bench/record.hpp"
#include "client/error.hpp"

namespace cogserve::client {

// Linear interpolation between the closest ranks, as numpy.percentile. `sorted` ascends and is not
// empty; `percent` in [0, 100].
double percentile(const std::vector<double>& sorted, double percent);

// All zero where there are no values.
struct Distribution {
  double mean = 0;
  double median = 0;
  // Of the population.
  double std = 0;
  // (percent, value) in the order asked for.
  std::vector<std::pair<double, double>> percentiles;
};

Distribution describe(std::vector<double> values, const std::vector<double>& percents);

// Limits that a request must keep to count as good; absent ones always hold.
struct Goodput {
  std::optional<double> ttft_ms;
  std::optional<double> tpot_ms;
  std::optional<double> e2el_ms;

  bool any() const { return ttft_ms || tpot_ms || e2el_ms; }
  // A request of one token keeps any TPOT.
  bool holds(const Record& record) const;
};

// "ttft:2000" with several pairs separated by spaces or commas. The error names the pair.
Result<Goodput> parse_goodput(std::string_view text);

// The distributions' names in the order of the report: ttft, tpot, itl, e2el, queue, vision.
extern const std::vector<std::string> kMetricNames;

struct Figures {
  double duration_s = 0;
  int64_t completed = 0;
  int64_t failed = 0;
  int64_t cancelled = 0;
  int64_t interrupted = 0;
  int64_t good = 0;
  int64_t total_input_tokens = 0;
  int64_t total_output_tokens = 0;
  int64_t images = 0;
  int64_t image_bytes = 0;
  int64_t max_concurrent_requests = 0;
  // The longest of all records; absent in a closed loop. A large one means that the load was not
  // the one that was asked for.
  std::optional<double> max_send_delay_ms;
  std::map<std::string, int64_t> failures;
  // By the names above.
  std::map<std::string, Distribution> metrics;

  // Of `count` in the run's time.
  double per_second(int64_t count) const {
    return duration_s > 0 ? static_cast<double>(count) / duration_s : 0.0;
  }
};

Figures figures(const std::vector<Record>& records, double duration_s,
                const std::vector<double>& percents, const Goodput& goodput);

}  // namespace cogserve::client
