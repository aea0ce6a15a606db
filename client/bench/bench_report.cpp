#include "client/bench/bench_report.hpp"

#include <cmath>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

namespace cogserve::client {
namespace {

using Json = nlohmann::ordered_json;

// "p99" or "p99.9".
std::string percent_name(double percent) {
  std::ostringstream text;
  text << 'p' << percent;
  return text.str();
}

const char* metric_title(const std::string& name) {
  static const std::map<std::string, const char*> kTitles = {
      {"ttft", "time to first token"}, {"tpot", "time per output token"},
      {"itl", "inter-token latency"},  {"e2el", "end-to-end latency"},
      {"queue", "server: waiting"},    {"vision", "server: vision tower"}};
  return kTitles.at(name);
}

Json rate_json(double rate) { return std::isinf(rate) ? Json("inf") : Json(rate); }

std::string error_text(const Record& record) {
  if (record.outcome == Record::Outcome::kCancelled) return "cancelled";
  if (record.outcome == Record::Outcome::kInterrupted) return "interrupted";
  return record.failure;
}

Json detailed_json(const std::vector<Record>& records) {
  Json json = {{"input_lens", Json::array()},  {"output_lens", Json::array()},
               {"start_times", Json::array()}, {"ttfts", Json::array()},
               {"itls", Json::array()},        {"e2els", Json::array()},
               {"errors", Json::array()}};
  for (const auto& record : records) {
    json["input_lens"].push_back(record.prompt_tokens);
    json["output_lens"].push_back(record.output_tokens);
    json["start_times"].push_back(record.sent_s);
    json["ttfts"].push_back(record.ttft_ms ? Json(*record.ttft_ms / 1000.0) : Json(nullptr));
    Json gaps = Json::array();
    for (const double gap : record.itl_ms) gaps.push_back(gap / 1000.0);
    json["itls"].push_back(std::move(gaps));
    json["e2els"].push_back(record.e2el_ms / 1000.0);
    json["errors"].push_back(error_text(record));
  }
  return json;
}

void add_line(std::string* table, const char* name, double value, int decimals = 2) {
  char line[96];
  std::snprintf(line, sizeof line, "%-42s %14.*f\n", name, decimals, value);
  *table += line;
}

void add_count(std::string* table, const char* name, int64_t value) {
  add_line(table, name, static_cast<double>(value), 0);
}

void add_latencies(std::string* table, const BenchFlags& flags, const Figures& figures) {
  char cell[96];
  *table += "\nmilliseconds                  mean    median       std";
  for (const double percent : flags.percents) {
    std::snprintf(cell, sizeof cell, "%10s", percent_name(percent).c_str());
    *table += cell;
  }
  *table += '\n';
  for (const auto& name : flags.metrics) {
    const Distribution& metric = figures.metrics.at(name);
    std::snprintf(cell, sizeof cell, "%-24s%10.2f%10.2f%10.2f", metric_title(name), metric.mean,
                  metric.median, metric.std);
    *table += cell;
    for (const auto& [percent, value] : metric.percentiles) {
      std::snprintf(cell, sizeof cell, "%10.2f", value);
      *table += cell;
    }
    *table += '\n';
  }
}

}  // namespace

Json result_json(const BenchFlags& flags, const ModelInfo& model, const Figures& figures,
                 const LoadRun& run, const std::string& date) {
  Json json = {
      {"date", date},
      {"backend", "grpc"},
      {"label", flags.label},
      {"model_id", model.name},
      {"server_version", model.server_version},
      {"device", model.device},
      {"dtype", model.dtype},
      {"rope_dtype", model.rope_dtype},
      {"kv_cache_tokens", model.kv_cache_tokens},
      {"kv_block_size", model.kv_block_size},
      {"max_num_seqs", model.limits.max_num_seqs},
      {"workload", flags.workload_name()},
      {"seed", flags.seed},
      {"num_prompts", flags.sessions()},
      {"request_rate", rate_json(flags.request_rate)},
      {"burstiness", flags.burstiness},
      {"max_concurrency", flags.max_concurrency > 0 ? Json(flags.max_concurrency) : Json(nullptr)},
      {"connections", run.connections},
      {"duration", figures.duration_s},
      {"completed", figures.completed},
      {"failed", figures.failed},
      {"cancelled", figures.cancelled},
      {"interrupted", figures.interrupted},
      {"failures", figures.failures},
      {"total_input_tokens", figures.total_input_tokens},
      {"total_output_tokens", figures.total_output_tokens},
      {"request_throughput", figures.per_second(figures.completed)},
      {"request_goodput",
       flags.limits.any() ? Json(figures.per_second(figures.good)) : Json(nullptr)},
      {"output_throughput", figures.per_second(figures.total_output_tokens)},
      {"total_token_throughput",
       figures.per_second(figures.total_input_tokens + figures.total_output_tokens)},
      {"questions_per_second", figures.per_second(figures.completed)},
      {"images_per_second", figures.per_second(figures.images)},
      {"upload_bytes", figures.image_bytes},
      {"max_concurrent_requests", figures.max_concurrent_requests},
      {"max_send_delay_ms",
       figures.max_send_delay_ms ? Json(*figures.max_send_delay_ms) : Json(nullptr)}};
  for (const auto& name : kMetricNames) {
    const Distribution& metric = figures.metrics.at(name);
    json["mean_" + name + "_ms"] = metric.mean;
    json["median_" + name + "_ms"] = metric.median;
    json["std_" + name + "_ms"] = metric.std;
    for (const auto& [percent, value] : metric.percentiles) {
      json[percent_name(percent) + "_" + name + "_ms"] = value;
    }
  }
  if (flags.save_detailed) json.update(detailed_json(run.records));
  return json;
}

std::string result_table(const BenchFlags& flags, const ModelInfo& model, const Figures& figures) {
  std::string table = "=== " + flags.workload_name() + " on " + model.name + " (" + model.dtype +
                      ", " + model.device + ") ===\n";
  add_count(&table, "requests completed", figures.completed);
  add_count(&table, "requests failed", figures.failed);
  for (const auto& [failure, count] : figures.failures) {
    add_count(&table, ("  " + failure).c_str(), count);
  }
  if (figures.cancelled > 0) add_count(&table, "requests cancelled on purpose", figures.cancelled);
  if (figures.interrupted > 0) add_count(&table, "requests cut off by Ctrl-C", figures.interrupted);
  add_line(&table, "duration (s)", figures.duration_s);
  add_count(&table, "most requests at a time", figures.max_concurrent_requests);
  if (figures.max_send_delay_ms) {
    add_line(&table, "sent late by, at most (ms)", *figures.max_send_delay_ms);
  }
  add_count(&table, "input tokens", figures.total_input_tokens);
  add_count(&table, "output tokens", figures.total_output_tokens);
  add_line(&table, "pictures sent (MB)", static_cast<double>(figures.image_bytes) / 1e6);
  add_line(&table, "requests/s", figures.per_second(figures.completed));
  if (flags.limits.any()) {
    add_line(&table, "requests/s within the limits (goodput)", figures.per_second(figures.good));
  }
  add_line(&table, "images/s", figures.per_second(figures.images));
  add_line(&table, "output tokens/s", figures.per_second(figures.total_output_tokens));
  add_line(&table, "tokens/s, in and out",
           figures.per_second(figures.total_input_tokens + figures.total_output_tokens));
  add_latencies(&table, flags, figures);
  return table;
}

std::string default_filename(const BenchFlags& flags, const ModelInfo& model,
                             const std::string& date) {
  std::ostringstream name;
  name << flags.label << '-' << flags.request_rate << "qps";
  if (flags.max_concurrency > 0) name << "-concurrency" << flags.max_concurrency;
  name << '-' << model.name << '-' << date << ".json";
  std::string text = name.str();
  for (char& c : text) {
    if (c == '/') c = '_';
  }
  return text;
}

}  // namespace cogserve::client
