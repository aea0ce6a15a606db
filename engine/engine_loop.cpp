#include "engine/engine_loop.hpp"

#include <algorithm>
#include <exception>
#include <string>
#include <utility>

#include "engine/base/check.hpp"
#include "engine/base/error.hpp"

namespace cogserve {
namespace {

// Work that throws ends its own streams; so many pieces in a row are no accident.
constexpr int kMaxFaultsInARow = 3;

absl::Status stopped_error(absl::StatusCode code) {
  return with_retry_delay(make_error(code, "ENGINE_STOPPED", "", "the engine was stopped"),
                          std::chrono::seconds(1));
}

absl::Status sequence_fault() {
  return make_error(absl::StatusCode::kInternal, "SEQUENCE_FAULT", "",
                    "a step of the engine failed");
}

absl::Status failed_error() {
  return with_retry_delay(make_error(absl::StatusCode::kUnavailable, "ENGINE_RESTARTING", "",
                                     "the engine has failed and needs a restart"),
                          std::chrono::seconds(5));
}

}  // namespace

EngineLoop::EngineLoop(EngineInfo info, const EngineConfig& config, const SchedulerConfig& limits,
                       std::unique_ptr<Backend> backend, ModelRunner runner, FaultLog fault_log)
    : info_(std::move(info)),
      limits_(limits),
      outbox_tokens_(config.outbox_tokens),
      fault_log_(std::move(fault_log)),
      backend_(std::move(backend)),
      runner_(std::move(runner)),
      scheduler_(limits),
      thread_([this] { loop(); }) {}

EngineLoop::~EngineLoop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  doorbell_->ring();
  thread_.join();
}

// --- any thread ----------------------------------------------------------------------------------

absl::StatusOr<std::shared_ptr<TokenStream>> EngineLoop::submit(Request request) {
  if (const absl::Status status = check_request(request); !status.ok()) return status;
  auto sequence = make_sequence(std::move(request));
  auto stream = sequence->stream;
  if (const absl::Status status = enqueue(std::move(sequence)); !status.ok()) return status;
  doorbell_->ring();
  return stream;
}

absl::Status EngineLoop::check_request(const Request& request) const {
  const VisionConfig& vision = info_.model.vision;
  const size_t values = size_t{3} * vision.image_size * vision.image_size;
  if (!request.pixels.empty() && request.pixels.size() != values) {
    return invalid_argument("IMAGE_SHAPE", "pixels",
                            "the picture has " + std::to_string(request.pixels.size()) +
                                " values, the model takes " + std::to_string(values));
  }
  for (const auto* ids : {&request.text_ids, &request.stop_token_ids}) {
    for (const int32_t id : *ids) {
      if (id >= 0 && id < info_.model.vocab) continue;
      return invalid_argument("TOKEN_ID_RANGE",
                              ids == &request.text_ids ? "text_ids" : "stop_token_ids",
                              "token id " + std::to_string(id) + " is outside 0.." +
                                  std::to_string(info_.model.vocab - 1));
    }
  }
  const int image_tokens = request.pixels.empty() ? 0 : vision.image_tokens();
  const int prompt_tokens = 1 + image_tokens + static_cast<int>(request.text_ids.size());
  return check_fits(limits_, prompt_tokens, request.max_tokens);
}

std::unique_ptr<Sequence> EngineLoop::make_sequence(Request request) const {
  const ModelConfig& model = info_.model;
  auto sequence = std::make_unique<Sequence>();
  sequence->layout =
      make_token_layout(model.bos_id, model.image_id,
                        request.pixels.empty() ? 0 : model.vision.image_tokens(), request.text_ids);
  sequence->request = std::move(request);
  sequence->stream =
      std::make_shared<TokenStream>(outbox_tokens_, [bell = doorbell_] { bell->ring(); });
  sequence->submitted = Clock::now();
  return sequence;
}

absl::Status EngineLoop::enqueue(std::unique_ptr<Sequence> sequence) {
  const std::lock_guard lock(mutex_);
  if (stopping_) return stopped_error(absl::StatusCode::kUnavailable);
  if (!healthy_) return failed_error();
  const uint64_t caller = sequence->request.caller;
  const size_t bytes = sequence->queue_bytes();
  if (const absl::Status status = check_queue(caller, bytes); !status.ok()) return status;
  queue_.add(caller, bytes);
  sequence->id = next_id_++;
  inbox_.push_back(std::move(sequence));
  return absl::OkStatus();
}

absl::Status EngineLoop::check_room(uint64_t caller, size_t bytes) const {
  const std::lock_guard lock(mutex_);
  return check_queue(caller, bytes);
}

absl::Status EngineLoop::check_queue(uint64_t caller, size_t bytes) const {
  absl::Status status = queue_.check_room(limits_, caller, bytes, refused_);
  refused_ += !status.ok();
  return status;
}

EngineStats EngineLoop::stats() const {
  const std::lock_guard lock(mutex_);
  EngineStats stats = stats_;
  stats.waiting += static_cast<int>(inbox_.size());
  return stats;
}

// --- the engine thread ---------------------------------------------------------------------------

void EngineLoop::loop() {
  while (wait_for_work()) {
    backend_->pulse().beat();
    step();
    drop_finished();
    publish_stats();
    backend_->pulse().rest();
  }
  stop();
}

bool EngineLoop::wait_for_work() {
  if (flying_.empty()) {  // else its tokens are due
    if (scheduler_.idle()) {
      doorbell_->wait_until(Clock::time_point::max());
    } else if (starved_) {  // every sequence waits for its reader
      doorbell_->wait_until(scheduler_.next_timeout());
    }
  }
  std::vector<std::unique_ptr<Sequence>> arrived;
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return false;
    arrived.swap(inbox_);
  }
  for (auto& sequence : arrived) {
    const auto stream = sequence->stream;
    const EndEvent refused{.prompt_tokens = sequence->layout.size(),
                           .image_tokens = sequence->layout.image_tokens};
    const absl::Status status = add(std::move(sequence));
    if (status.ok()) continue;
    EndEvent end = refused;
    end.status = status;
    stream->finish(std::move(end));
  }
  return true;
}

absl::Status EngineLoop::add(std::unique_ptr<Sequence> sequence) {
  try {
    return scheduler_.add(std::move(sequence), Clock::now());
  } catch (const std::exception& fault) {
    log_fault(fault);
    return sequence_fault();
  }
}

void EngineLoop::step() {
  Plan plan;
  try {
    plan = scheduler_.schedule(Clock::now());
    publish_stats();  // a step may take long, and who has come in meanwhile is to be counted once
    starved_ = plan.empty() && flying_.empty();
    if (starved_) return;
    if (backend_->works_ahead() && !std::exchange(careful_, false)) {
      run_ahead(plan);
    } else {
      run_alone(plan);
    }
  } catch (const DeviceFault& fault) {
    log_fault(fault);
    take_back({});
    give_up();
  } catch (const std::exception& fault) {  // the scheduler's: what it has committed is not known
    log_fault(fault);
    take_back({});
    fail(plan);
  }
}

// Starts the plan before the tokens of the one that flies are taken, so that the backend never
// waits for the host; then it is the one that flies, if its tokens can wait until the next call.
void EngineLoop::run_ahead(Plan plan) {
  bool sound = plan.empty() || start(plan);
  if (sound && !flying_.empty()) {
    sound = land(flying_);
    if (sound) flying_ = {};
  }
  if (sound && !plan.empty()) {
    if (can_advance(plan)) {
      scheduler_.advance(&plan);
      flying_ = std::move(plan);
    } else {
      sound = land(plan);
    }
  }
  if (sound) {
    faults_in_a_row_ = 0;
  } else {
    take_back(plan);
  }
}

// Nothing that was started and not committed counts: neither `plan` nor the one that flies. The
// next plan runs alone, so that what is at fault is found there.
void EngineLoop::take_back(const Plan& plan) {
  runner_.abandon();
  if (!plan.empty()) scheduler_.retract(plan);
  if (!flying_.empty()) scheduler_.retract(std::exchange(flying_, {}));
  careful_ = true;
}

// When the plan's run throws, each piece of its work runs again alone, so that only the piece at
// fault ends: the others never notice.
void EngineLoop::run_alone(const Plan& plan) {
  if (run(plan)) return;
  if (plan.size() == 1) {
    fail(plan);
    return;
  }
  for (const Plan& part : split(plan)) {
    if (healthy_ && !run(part)) fail(part);
  }
}

// Runs and commits. False: it threw, and nothing is committed.
bool EngineLoop::run(const Plan& plan) {
  if (!start(plan) || !land(plan)) return false;
  faults_in_a_row_ = 0;
  return true;
}

// False: it threw, and counts as not started.
bool EngineLoop::start(const Plan& plan) {
  try {
    runner_.start(plan);
  } catch (const DeviceFault&) {
    throw;
  } catch (const std::exception& fault) {
    log_fault(fault);
    return false;
  }
  return true;
}

// Commits the plan that was started first. False: its tokens are lost, and nothing is committed.
bool EngineLoop::land(const Plan& plan) {
  std::span<const SampledToken> sampled;
  try {
    sampled = runner_.collect();
  } catch (const DeviceFault&) {
    throw;
  } catch (const std::exception& fault) {
    log_fault(fault);
    return false;
  }
  scheduler_.commit(plan, sampled, Clock::now());
  return true;
}

// Ends the streams of `plan`; all of them after too many faults or one that no plan explains.
void EngineLoop::fail(const Plan& plan) {
  if (++faults_in_a_row_ < kMaxFaultsInARow && !plan.empty()) {
    scheduler_.fail(plan, sequence_fault(), Clock::now());
    return;
  }
  give_up();
}

void EngineLoop::give_up() {
  healthy_ = false;
  scheduler_.fail_all(failed_error(), Clock::now());
}

void EngineLoop::log_fault(const std::exception& fault) const {
  if (fault_log_) fault_log_(fault.what());
}

// What ended in this step may be part of the plan that flies: it goes one step later.
void EngineLoop::drop_finished() {
  forget_ended();
  ended_ = scheduler_.take_finished();
  if (flying_.empty()) forget_ended();
}

void EngineLoop::forget_ended() {
  for (const auto& sequence : ended_) runner_.forget(*sequence);
  ended_.clear();
}

void EngineLoop::publish_stats() {
  const SchedulerStats now = scheduler_.stats();
  const std::lock_guard lock(mutex_);
  stats_ = {.waiting = now.waiting,
            .running = now.running,
            .blocks_used = now.blocks_used,
            .blocks_total = now.blocks_total,
            .preemptions = now.preemptions,
            .steps = now.steps};
  try {
    QueueState queue = scheduler_.queue();
    for (const auto& s : inbox_) queue.add(s->request.caller, s->queue_bytes());
    std::swap(queue_, queue);
  } catch (const std::bad_alloc&) {  // what was said of the queue last stands
  }
}

void EngineLoop::stop() {
  const absl::Status status = stopped_error(absl::StatusCode::kCancelled);
  runner_.abandon();
  flying_ = {};
  scheduler_.fail_all(status, Clock::now());
  drop_finished();
  std::vector<std::unique_ptr<Sequence>> arrived;
  {
    const std::lock_guard lock(mutex_);
    arrived.swap(inbox_);
  }
  for (const auto& sequence : arrived) sequence->stream->finish({.status = status});
}

}  // namespace cogserve
