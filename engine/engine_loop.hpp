// The engine's one loop and its thread: take new requests, schedule, run, commit. On a backend that
// works ahead, a step is scheduled and started before the tokens of the last one are known.
//
// Made by start_engine. Whatever throws while a step runs is caught here, once.
#pragma once

#include <atomic>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "engine/backend/backend.hpp"
#include "engine/doorbell.hpp"
#include "engine/engine.hpp"
#include "engine/run/model_runner.hpp"
#include "engine/schedule/scheduler.hpp"

namespace cogserve {

class EngineLoop final : public Engine {
 public:
  EngineLoop(EngineInfo info, const EngineConfig& config, const SchedulerConfig& limits,
             std::unique_ptr<Backend> backend, ModelRunner runner, FaultLog fault_log);
  // Ends what is still there and joins the thread.
  ~EngineLoop() override;

  absl::StatusOr<std::shared_ptr<TokenStream>> submit(Request request) override;
  absl::Status check_room(uint64_t caller, size_t bytes) const override;
  const EngineInfo& info() const override { return info_; }
  EngineStats stats() const override;
  Clock::duration silence() const override { return backend_->pulse().silence(); }
  bool healthy() const override { return healthy_; }

 private:
  absl::Status check_request(const Request& request) const;
  std::unique_ptr<Sequence> make_sequence(Request request) const;
  absl::Status enqueue(std::unique_ptr<Sequence> sequence);
  absl::Status check_queue(uint64_t caller, size_t bytes) const;  // under the mutex

  void loop();
  bool wait_for_work();  // false: time to stop
  absl::Status add(std::unique_ptr<Sequence> sequence);
  void step();
  void run_ahead(Plan plan);
  void take_back(const Plan& plan);
  void run_alone(const Plan& plan);
  bool run(const Plan& plan);
  bool start(const Plan& plan);
  bool land(const Plan& plan);
  void fail(const Plan& plan);
  void give_up();
  void log_fault(const std::exception& fault) const;
  void drop_finished();
  void forget_ended();
  void publish_stats();
  void stop();

  const EngineInfo info_;
  const SchedulerConfig limits_;
  const int outbox_tokens_;
  const FaultLog fault_log_;

  // The engine thread's own, but for the backend's pulse.
  const std::unique_ptr<Backend> backend_;
  ModelRunner runner_;
  Scheduler scheduler_;
  Plan flying_;  // started, its tokens are not known yet; empty: there is none
  std::vector<std::unique_ptr<Sequence>> ended_;  // may be part of `flying_`
  bool careful_ = false;  // something failed while a plan was flying: the next one runs alone
  bool starved_ = false;  // the last plan was empty although something is there
  int faults_in_a_row_ = 0;

  // Shared with every thread.
  const std::shared_ptr<Doorbell> doorbell_ = std::make_shared<Doorbell>();
  mutable std::mutex mutex_;  // guards all below but `healthy_`
  std::vector<std::unique_ptr<Sequence>> inbox_;
  EngineStats stats_;
  QueueState queue_;  // the scheduler's and the inbox
  mutable uint64_t refused_ = 0;
  uint64_t next_id_ = 1;
  bool stopping_ = false;
  std::atomic<bool> healthy_{true};

  std::thread thread_;  // last: started when all else is there, joined first
};

// What Engine::create does once it has made the backend.
absl::StatusOr<std::unique_ptr<Engine>> start_engine(const EngineConfig& config,
                                                     std::unique_ptr<Backend> backend,
                                                     const Engine::Progress& progress,
                                                     Engine::FaultLog fault_log);

}  // namespace cogserve
