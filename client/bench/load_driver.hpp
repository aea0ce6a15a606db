// Sends a workload's sessions to a server and times every stream. Closed loop: a new session starts
// when another has ended, `max_concurrency` at a time. Open loop: sessions start when they are due,
// whatever the server does, on as many connections as that takes (see ConnectionPool). Both
// together: when due and a place is free.
//
// One thread calls run(), which prepares and sends; the streams run on gRPC's threads. A failure of
// any kind is a record, never the end of the run.
#pragma once

#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <vector>

#include "client/bench/arrivals.hpp"
#include "client/bench/connection_pool.hpp"
#include "client/bench/record.hpp"
#include "client/bench/workload.hpp"
#include "client/client.hpp"
#include "client/conversation.hpp"

namespace cogserve::client {

struct LoadOptions {
  // Model, sampling and the like of every request; messages and max_tokens come from the workload.
  ChatRequest base = {};
  // Numbers of the first session and of how many (unless the time is up before).
  uint64_t first_session = 0;
  uint64_t sessions = std::numeric_limits<uint64_t>::max();
  // No session starts later; 0: no limit.
  std::chrono::milliseconds duration{0};
  // Sessions at the same time; 0: no limit.
  int max_concurrency = 0;
  // Sessions per second; infinity: all at once.
  double request_rate = std::numeric_limits<double>::infinity();
  double burstiness = 1.0;
  // Between an answer and the session's next question.
  std::chrono::milliseconds think_time{0};
  // Share of requests that are cancelled half-way.
  double cancel_rate = 0;
  uint64_t seed = 0;

  // Whether requests are due at times of their own.
  bool open_loop() const { return max_concurrency == 0 || !std::isinf(request_rate); }
};

struct LoadProgress {
  uint64_t done = 0;
  uint64_t failed = 0;
  uint64_t in_flight = 0;
  double elapsed_s = 0;
};

struct LoadRun {
  std::vector<Record> records = {};
  double duration_s = 0;
  // Connections that are open at the end.
  size_t connections = 0;
  // Set where the workload could not make a session (a picture that cannot be read).
  std::optional<Error> error = {};
};

class LoadDriver {
 public:
  // `pool` and `workload` outlive the driver. `on_progress` runs on the thread of run(), several
  // times a second; may be empty.
  LoadDriver(ConnectionPool* pool, Workload* workload, LoadOptions options,
             std::function<void(const LoadProgress&)> on_progress);

  // Makes the first `count` sessions ahead, so that their pictures are not drawn while the clock
  // runs.
  Result<uint64_t> prepare(uint64_t count);

  // Returns when every stream has ended. Once.
  LoadRun run();

  // From any thread: nothing new starts, and what runs is cancelled.
  void stop();

 private:
  using Clock = std::chrono::steady_clock;

  struct ActiveSession;
  struct Exchange;

  bool may_start() const;
  void start_session(std::unique_lock<std::mutex>* lock);
  void send(std::shared_ptr<ActiveSession> session, Clock::time_point due,
            std::unique_lock<std::mutex>* lock);
  void finish(const std::shared_ptr<Exchange>& exchange, const Result<Answer>& answer);
  Clock::time_point next_event(Clock::time_point now) const;
  void report(Clock::time_point now);
  double seconds_since_start(Clock::time_point time) const;

  ConnectionPool* pool_;
  Workload* workload_;
  LoadOptions options_;
  std::function<void(const LoadProgress&)> on_progress_;
  std::vector<Session> prepared_;

  // Of the thread of run().
  Arrivals arrivals_;
  std::mt19937_64 random_;
  Clock::time_point next_arrival_;
  uint64_t started_ = 0;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  Clock::time_point start_;
  bool stopping_ = false;
  uint64_t active_sessions_ = 0;
  uint64_t failed_ = 0;
  std::vector<std::shared_ptr<Exchange>> in_flight_;
  // Sessions waiting for their next question, by when it is due.
  std::multimap<Clock::time_point, std::shared_ptr<ActiveSession>> follow_ups_;
  LoadRun result_;
};

}  // namespace cogserve::client
