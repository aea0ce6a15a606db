#include "server/serve.hpp"

#include <google/protobuf/stubs/logging.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/statusor.h"
#include "engine/base/error.hpp"
#include "server/awake_time.hpp"
#include "server/banner.hpp"
#include "server/grpc_server.hpp"
#include "server/log.hpp"
#include "server/options.hpp"
#include "server/plan.hpp"
#include "server/progress_line.hpp"
#include "server/served_model.hpp"
#include "server/shutdown_watchdog.hpp"
#include "server/stop_signals.hpp"
#include "server/warmup.hpp"

namespace cogserve {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kPoll{100};      // between looks at signals and the engine
constexpr milliseconds kWarmupPoll{2};  // between looks at signals while warming up
constexpr milliseconds kFirstWarmupNotice{1000};
constexpr milliseconds kWarmupNotice{30000};
// Of a drain, in which new calls are told why and probes get their answers; then clients that are
// still connected are sent elsewhere.
constexpr milliseconds kRefuseTime{10000};
constexpr milliseconds kFlushGrace{2000};  // for the last bytes of finished calls to go out
constexpr milliseconds kAbortGrace{2000};  // for statuses to go out after calls were ended
constexpr milliseconds kHurryGrace{500};   // for each of the two, when the process must go
constexpr milliseconds kHurryLimit{1500};
// After --shutdown-timeout, in which the two graces and the engine's last step must end.
constexpr milliseconds kHardExit{10000};

// A model that does not fit: the table says more than the line.
void print_plan(const EngineConfig& config) {
  const auto plan = plan_memory_here(config);
  if (plan.ok()) std::fprintf(stderr, "\n%s\n", plan_table(*plan).c_str());
}

int startup_failed(const absl::Status& status) {
  const std::string what(status.message());
  log_event(LogLevel::kError, "startup.failed", {{"what", what}});
  return kExitStartup;
}

std::string tokenizer_path(const ServeOptions& options) {
  namespace fs = std::filesystem;
  const fs::path path = options.tokenizer.empty() ? options.engine.model_dir : options.tokenizer;
  std::error_code error;
  return fs::is_directory(path, error) ? (path / "tokenizer.json").string() : path.string();
}

// Loading cannot be interrupted, but nothing has been promised yet: a signal ends the process.
void stop_if_signalled(const StopSignals& signals, milliseconds wait = milliseconds(0)) {
  if (!signals.wait(wait).has_value()) return;
  log_event(LogLevel::kInfo, "stopped", {{"while", "loading"}});
  _exit(0);
}

// A device that hangs in its very first steps would never serve, nor end.
void leave_if_stuck(const Engine& engine, milliseconds stall_timeout, AwakeTime* awake) {
  awake->overslept();
  if (awake->of(engine.silence()) <= stall_timeout) return;
  log_event(LogLevel::kError, "engine.stuck",
            {{"while", "warming up"}, {"allowed_by", "--stall-timeout"}});
  _exit(kExitEngineFailed);
}

// On a slow device a picture takes minutes: says so, and how to do without.
absl::Status warm_up_while_watching(const StopSignals& signals, const ServeOptions& options,
                                    Engine& engine) {
  const milliseconds max_ttft = options.chat.max_ttft;
  AwakeTime awake(kWarmupPoll);
  const Clock::time_point begin = Clock::now();
  const auto passed = [&] { return std::chrono::duration<double>(Clock::now() - begin); };
  std::chrono::duration<double> next_notice = kFirstWarmupNotice;
  absl::Status status = warm_up(engine, [&] {
    stop_if_signalled(signals, kWarmupPoll);
    leave_if_stuck(engine, options.stall_timeout, &awake);
    if (passed() < next_notice) return;
    log_event(LogLevel::kInfo, "warming_up",
              {{"seconds", passed().count()}, {"skipped_by", "--no-warmup"}});
    next_notice = passed() + kWarmupNotice;
  });
  if (status.ok()) log_event(LogLevel::kInfo, "warmed_up", {{"seconds", passed().count()}});
  if (max_ttft.count() > 0 && passed() > max_ttft) {
    log_event(LogLevel::kWarning, "slow_device",
              {{"what", "one text and one picture took longer than --max-ttft lets any call wait"},
               {"max_ttft_ms", int64_t{max_ttft.count()}}});
  }
  return status;
}

absl::StatusOr<std::unique_ptr<ServedModel>> load_model(const StopSignals& signals,
                                                        const ServeOptions& options) {
  auto tokenizer = text::Tokenizer::load(tokenizer_path(options));
  if (!tokenizer.ok()) return tokenizer.status();
  absl::StatusOr<std::unique_ptr<Engine>> engine;
  {
    ProgressLine progress("loading " + options.served_model_names.front());
    const auto on_progress = [&](int64_t done, int64_t total) {
      progress.show(done, total);
      stop_if_signalled(signals);
    };
    const auto on_fault = [](std::string_view what) {
      log_event(LogLevel::kError, "engine.fault", {{"what", what}});
    };
    engine = Engine::create(options.engine, on_progress, on_fault);
  }
  if (!engine.ok()) return engine.status();
  if (options.warmup) {
    absl::Status status = warm_up_while_watching(signals, options, **engine);
    if (!status.ok()) return status;
  }
  ServedModelOptions served;
  served.names = options.served_model_names;
  served.chat_template = options.chat_template;
  served.limits = options.limits;
  served.engine = options.engine;
  served.preprocess_threads = options.preprocess_threads;
  served.max_message_bytes = options.network.max_message_bytes;
  return std::make_unique<ServedModel>(*std::move(engine), *std::move(tokenizer), served);
}

absl::Status draining_error() {
  return with_retry_delay(make_error(absl::StatusCode::kUnavailable, "DRAINING", "",
                                     "the server shut down before the answer was complete"),
                          milliseconds(500));
}

// Without a word to the engine, whose thread or device may hang.
[[noreturn]] void leave(int exit_code, GrpcServer* server) {
  const ShutdownWatchdog watchdog(Clock::now() + kHurryLimit,
                                  exit_code == 0 ? kExitStuck : exit_code);
  server->wait_until_idle(kHurryGrace);
  server->shutdown(kHurryGrace);
  _exit(exit_code);
}

// Returns if the engine is well. One that has failed has ended its streams; for one that hangs it
// is done here.
void leave_if_engine_is_gone(GrpcServer* server) {
  if (!server->healthy()) {
    log_event(LogLevel::kError, "engine.failed");
    leave(kExitEngineFailed, server);
  }
  if (!server->stuck()) return;
  log_event(LogLevel::kError, "engine.stuck",
            {{"calls_ended", static_cast<int64_t>(server->active_calls())}});
  server->abort_calls(
      with_retry_delay(make_error(absl::StatusCode::kUnavailable, "ENGINE_STALLED", "",
                                  "the engine has hung; the server is about to restart"),
                       milliseconds(5000)));
  leave(kExitEngineFailed, server);
}

// Until no call runs; cut short by the timeout, and by a second signal, with which the process
// ends.
void drain(const StopSignals& signals, milliseconds timeout, GrpcServer* server) {
  const auto begin = Clock::now();
  server->begin_drain();
  while (!server->wait_until_idle(kPoll)) {
    leave_if_engine_is_gone(server);
    if (Clock::now() >= begin + kRefuseTime) server->close();
    const bool hurry = signals.wait(milliseconds(0)).has_value();
    if (Clock::now() < begin + timeout && !hurry) continue;
    log_event(LogLevel::kWarning, "drain.cut",
              {{"calls_ended", static_cast<int64_t>(server->active_calls())}});
    server->abort_calls(draining_error());
    if (hurry) leave(0, server);
    server->wait_until_idle(kAbortGrace);
    return;
  }
  leave_if_engine_is_gone(server);
}

// Serves until a signal, and drains. From then on `watchdog` runs.
void serve_until_stopped(const StopSignals& signals, const ServeOptions& options,
                         GrpcServer* server, std::optional<ShutdownWatchdog>* watchdog) {
  std::optional<int> signal;
  while (!(signal = signals.wait(kPoll)).has_value()) leave_if_engine_is_gone(server);
  log_event(LogLevel::kInfo, "draining",
            {{"signal", *signal == SIGTERM ? "SIGTERM" : "SIGINT"},
             {"calls", static_cast<int64_t>(server->active_calls())}});
  const Clock::time_point end = Clock::now() + options.shutdown_timeout + kHardExit;
  watchdog->emplace(end, kExitStuck);
  drain(signals, options.shutdown_timeout, server);
  server->shutdown(kFlushGrace);
  watchdog->emplace(end, 0);  // what the engine still computes is for nobody
}

int serve(const StopSignals& signals, const ServeOptions& options) {
  std::optional<ShutdownWatchdog> watchdog;  // outlives the engine, whose thread may hang
  auto server = GrpcServer::start(
      options.network, options.chat,
      {.patience = options.engine.slow_reader_time, .stall_timeout = options.stall_timeout});
  if (!server.ok()) return startup_failed(server.status());
  log_event(LogLevel::kInfo, "listening",
            {{"address", bound_address(options.network, (*server)->port())}});
  const Clock::time_point begin = Clock::now();
  auto model = load_model(signals, options);
  if (!model.ok()) {
    if (error_reason(model.status()) == "MEMORY_PLAN") print_plan(options.engine);
    return startup_failed(model.status());
  }
  (*server)->serve(model->get());
  write_banner(options, **model, (*server)->port(), Clock::now() - begin);
  serve_until_stopped(signals, options, server->get(), &watchdog);
  server->reset();  // before the model that its calls use
  model->reset();
  log_event(LogLevel::kInfo, "stopped");
  return 0;
}

// Each connection is one; the usual 1024 are soon in use, and then not even a probe gets in.
void raise_file_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

int run_serve(const std::vector<std::string>& arguments) {
  ServeOptions options;
  ServeFlags flags(&options);
  const auto positional = flags.table().parse(arguments);
  if (flags.table().help_wanted()) {
    std::fputs(flags.table().help().c_str(), stdout);
    return 0;
  }
  absl::Status status = positional.status();
  if (status.ok() && !positional->empty()) {
    status = absl::InvalidArgumentError(positional->front() +
                                        ": serve takes no arguments, only options");
  }
  if (status.ok()) status = flags.complete();
  if (!status.ok()) {
    std::fprintf(stderr, "cogserve serve: %s\n", std::string(status.message()).c_str());
    return kExitUsage;
  }
  configure_log(options.log_level, options.log_format == "json");
  // Their own lines are not ours; we report what matters.
  setenv("GRPC_VERBOSITY", "NONE", 0);
  google::protobuf::SetLogHandler(nullptr);
  raise_file_limit();
  const StopSignals signals;
  return serve(signals, options);
}

}  // namespace cogserve
