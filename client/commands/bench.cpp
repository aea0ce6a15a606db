#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "client/bench/bench_flags.hpp"
#include "client/bench/bench_report.hpp"
#include "client/bench/connection_pool.hpp"
#include "client/bench/load_driver.hpp"
#include "client/bench/random_text.hpp"
#include "client/bench/result_file.hpp"
#include "client/bench/statistics.hpp"
#include "client/bench/workload.hpp"
#include "client/commands.hpp"
#include "client/commands/interrupt.hpp"
#include "client/commands/report.hpp"

namespace cogserve {
namespace {

using client::Result;

// Sessions made ahead of the run, at most: their pictures are kept in memory.
constexpr uint64_t kPrepared = 512;
// Numbers of the sessions before the measured ones: other questions, other pictures.
constexpr uint64_t kFirstWarmup = uint64_t{1} << 40;

std::string date_now() {
  const std::time_t now = std::time(nullptr);
  char text[32];
  std::strftime(text, sizeof text, "%Y%m%d-%H%M%S", std::localtime(&now));
  return text;
}

class Bench {
 public:
  explicit Bench(client::BenchFlags* flags) : flags_(*flags) {}

  // From another thread (Ctrl-C): what has been measured is still reported. False the second time.
  bool stop() {
    const std::lock_guard lock(mutex_);
    if (driver_ != nullptr) driver_->stop();
    return !std::exchange(stopped_, true);
  }

  int run() {
    auto connected = flags_.connection.connect();
    if (!connected.ok()) return client::fail(connected.error());
    pool_.emplace(*std::move(connected), flags_.connections);
    const auto model = pool_->first().get_model();
    if (!model.ok()) return client::fail(model.error());
    const std::string date = date_now();
    client::ResultFile file;
    if (wants_file()) {
      if (const auto error = file.open(result_path(*model, date))) return client::fail(*error);
    }
    const auto tokens_per_word = measure_tokens_per_word();
    if (!tokens_per_word.ok()) return client::fail(tokens_per_word.error());
    auto options = flags_.workload_options(*model, *tokens_per_word);
    if (!options.ok()) return client::fail(options.error());
    client::Workload workload(*std::move(options));

    if (flags_.warmups() > 0) {
      client::LoadOptions warm = flags_.load_options();
      warm.first_session = kFirstWarmup;
      warm.sessions = flags_.warmups();
      warm.request_rate = std::numeric_limits<double>::infinity();
      warm.max_concurrency = std::max(1, warm.max_concurrency);
      warm.duration = std::chrono::milliseconds(0);
      warm.cancel_rate = 0;
      const auto run = drive(&workload, warm, "warm-up");
      if (run.error) return client::fail(*run.error);
    }
    const auto run = drive(&workload, flags_.load_options(), "measure");
    if (run.error) return client::fail(*run.error);
    return report(*model, run, date, &file);
  }

 private:
  bool wants_file() const { return flags_.save_result || flags_.save_detailed; }

  std::filesystem::path result_path(const client::ModelInfo& model, const std::string& date) const {
    return std::filesystem::path(flags_.result_dir) /
           (flags_.result_filename.empty() ? client::default_filename(flags_, model, date)
                                           : flags_.result_filename);
  }

  // The server's tokenizer is known only by its counts: two prompts that differ in their number of
  // words tell how many tokens a word makes.
  Result<double> measure_tokens_per_word() {
    constexpr int kFewWords = 8;
    constexpr int kManyWords = 32;
    double tokens[2];
    std::mt19937_64 random(flags_.seed);
    for (const int index : {0, 1}) {
      client::ChatRequest request = flags_.load_options().base;
      request.stopping.max_tokens = 1;
      const std::string text = client::random_text(index == 0 ? kFewWords : kManyWords, &random);
      request.messages = client::Conversation().ask(text).messages();
      const auto answer = pool_->first().chat(request);
      if (!answer.ok()) return answer.error();
      tokens[index] = answer->usage.prompt_tokens;
    }
    return std::max(0.1, (tokens[1] - tokens[0]) / (kManyWords - kFewWords));
  }

  client::LoadRun drive(client::Workload* workload, const client::LoadOptions& options,
                        const char* title) {
    const bool show = isatty(STDERR_FILENO) == 1;
    client::LoadDriver driver(&*pool_, workload, options,
                              [&](const client::LoadProgress& progress) {
                                if (show) show_progress(title, options, progress);
                              });
    std::cerr << title << ": preparing" << (show ? "" : "\n") << std::flush;
    const auto prepared = driver.prepare(std::min(kPrepared, options.sessions));
    if (!prepared.ok()) return {.error = prepared.error()};
    {
      const std::lock_guard lock(mutex_);
      driver_ = &driver;
      if (stopped_) driver.stop();
    }
    auto run = driver.run();
    if (show) std::cerr << '\n';
    const std::lock_guard lock(mutex_);
    driver_ = nullptr;
    return run;
  }

  static void show_progress(const char* title, const client::LoadOptions& options,
                            const client::LoadProgress& progress) {
    constexpr int kWidth = 30;
    double share = 0;
    if (options.duration.count() > 0) {
      share = progress.elapsed_s * 1000.0 / static_cast<double>(options.duration.count());
    }
    share =
        std::max(share, static_cast<double>(progress.done) / static_cast<double>(options.sessions));
    const int filled = static_cast<int>(kWidth * std::min(1.0, share));
    char line[160];
    std::snprintf(
        line, sizeof line, "\r%-8s [%-*s] %llu done, %llu failed, %llu running, %.1f s, %.2f/s  ",
        title, kWidth, std::string(static_cast<size_t>(filled), '=').c_str(),
        static_cast<unsigned long long>(progress.done),
        static_cast<unsigned long long>(progress.failed),
        static_cast<unsigned long long>(progress.in_flight), progress.elapsed_s,
        progress.elapsed_s > 0 ? static_cast<double>(progress.done) / progress.elapsed_s : 0.0);
    std::cerr << line << std::flush;
  }

  int report(const client::ModelInfo& model, const client::LoadRun& run, const std::string& date,
             client::ResultFile* file) const {
    const auto figures =
        client::figures(run.records, run.duration_s, flags_.percents, flags_.limits);
    std::cout << client::result_table(flags_, model, figures) << std::flush;
    if (wants_file()) {
      const auto json = client::result_json(flags_, model, figures, run, date);
      const auto error = file->write(client::json_text(json, true) + '\n');
      if (error) return client::fail(*error);
      std::cerr << "result in " << file->path().string() << '\n';
    }
    return figures.failed > 0 || figures.completed == 0 ? client::kExitLocal : 0;
  }

  const client::BenchFlags& flags_;
  std::optional<client::ConnectionPool> pool_;
  std::mutex mutex_;
  client::LoadDriver* driver_ = nullptr;
  bool stopped_ = false;
};

}  // namespace

int run_bench(const std::vector<std::string>& arguments) {
  if (!arguments.empty() && arguments[0] != "serve" && !arguments[0].starts_with("-")) {
    return client::fail(client::kExitUsage, "USAGE", "", "bench knows only: serve");
  }
  client::BenchFlags flags;
  OptionTable table("bench serve", "--max-concurrency N | --request-rate R [options]",
                    "measure a running server: throughput and latencies under load.");
  flags.add_to(&table);
  std::vector<std::string> rest(arguments.begin() + (arguments.empty() ? 0 : 1), arguments.end());
  if (!arguments.empty() && arguments[0] != "serve") rest = arguments;
  std::vector<std::string> positional;
  if (const auto code = client::parse_arguments(&table, rest, &positional)) return *code;
  if (const auto error = flags.check(positional)) return client::fail(*error);

  Bench bench(&flags);
  const client::Interrupt interrupt([&bench] {
    if (!bench.stop()) std::_Exit(130);
  });
  return bench.run();
}

}  // namespace cogserve
