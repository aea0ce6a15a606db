#include "client/bench/statistics.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>

namespace cogserve::client {

const std::vector<std::string> kMetricNames = {"ttft", "tpot", "itl", "e2el", "queue", "vision"};

namespace {

// Requests under way at the same time, at the most.
int64_t peak_concurrency(const std::vector<Record>& records) {
  std::vector<std::pair<double, int>> changes;
  for (const auto& record : records) {
    changes.emplace_back(record.sent_s, 1);
    changes.emplace_back(record.sent_s + record.e2el_ms / 1000.0, -1);
  }
  std::sort(changes.begin(), changes.end());
  int64_t running = 0;
  int64_t peak = 0;
  for (const auto& [time, change] : changes) peak = std::max(peak, running += change);
  return peak;
}

Error goodput_error(std::string_view pair) {
  return {.code = Code::kInvalidArgument,
          .reason = "USAGE",
          .field = "--goodput",
          .message = "wants ttft:MS, tpot:MS or e2el:MS, got \"" + std::string(pair) + "\""};
}

}  // namespace

double percentile(const std::vector<double>& sorted, double percent) {
  const double rank = percent / 100.0 * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(rank);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (rank - static_cast<double>(below));
}

Distribution describe(std::vector<double> values, const std::vector<double>& percents) {
  Distribution distribution;
  std::sort(values.begin(), values.end());
  if (!values.empty()) {
    const auto count = static_cast<double>(values.size());
    distribution.mean = std::accumulate(values.begin(), values.end(), 0.0) / count;
    double squares = 0;
    for (const double value : values) {
      squares += (value - distribution.mean) * (value - distribution.mean);
    }
    distribution.std = std::sqrt(squares / count);
    distribution.median = percentile(values, 50);
  }
  for (const double percent : percents) {
    distribution.percentiles.emplace_back(percent,
                                          values.empty() ? 0.0 : percentile(values, percent));
  }
  return distribution;
}

bool Goodput::holds(const Record& record) const {
  if (ttft_ms && (!record.ttft_ms || *record.ttft_ms > *ttft_ms)) return false;
  if (tpot_ms && record.tpot_ms().value_or(0.0) > *tpot_ms) return false;
  return !e2el_ms || record.e2el_ms <= *e2el_ms;
}

Result<Goodput> parse_goodput(std::string_view text) {
  Goodput goodput;
  while (!text.empty()) {
    const size_t end = std::min(text.find_first_of(" ,"), text.size());
    const std::string_view pair = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (pair.empty()) continue;
    const size_t colon = pair.find(':');
    if (colon == std::string_view::npos) return goodput_error(pair);
    const std::string_view name = pair.substr(0, colon);
    const char* last = pair.data() + pair.size();
    double limit = 0;
    const auto [stop, error] = std::from_chars(pair.data() + colon + 1, last, limit);
    if (error != std::errc() || stop != last || !(limit >= 0)) return goodput_error(pair);
    if (name == "ttft") {
      goodput.ttft_ms = limit;
    } else if (name == "tpot") {
      goodput.tpot_ms = limit;
    } else if (name == "e2el") {
      goodput.e2el_ms = limit;
    } else {
      return goodput_error(pair);
    }
  }
  return goodput;
}

Figures figures(const std::vector<Record>& records, double duration_s,
                const std::vector<double>& percents, const Goodput& goodput) {
  Figures result;
  result.duration_s = duration_s;
  result.max_concurrent_requests = peak_concurrency(records);
  std::map<std::string, std::vector<double>> values;
  for (const auto& record : records) {
    result.image_bytes += record.image_bytes;
    if (record.send_delay_ms) {
      result.max_send_delay_ms =
          std::max(result.max_send_delay_ms.value_or(0), *record.send_delay_ms);
    }
    if (record.outcome == Record::Outcome::kCancelled) {
      ++result.cancelled;
      continue;
    }
    if (record.outcome == Record::Outcome::kInterrupted) {
      ++result.interrupted;
      continue;
    }
    if (record.outcome == Record::Outcome::kFailed) {
      ++result.failed;
      ++result.failures[record.failure];
      continue;
    }
    ++result.completed;
    result.good += goodput.holds(record) ? 1 : 0;
    result.total_input_tokens += record.prompt_tokens;
    result.total_output_tokens += record.output_tokens;
    if (record.ttft_ms) values["ttft"].push_back(*record.ttft_ms);
    if (const auto tpot = record.tpot_ms()) values["tpot"].push_back(*tpot);
    values["itl"].insert(values["itl"].end(), record.itl_ms.begin(), record.itl_ms.end());
    values["e2el"].push_back(record.e2el_ms);
    values["queue"].push_back(record.queue_ms);
    if (record.image_tokens > 0) {
      ++result.images;
      values["vision"].push_back(record.vision_ms);
    }
  }
  for (const auto& name : kMetricNames) {
    result.metrics[name] = describe(std::move(values[name]), percents);
  }
  return result;
}

}  // namespace cogserve::client
