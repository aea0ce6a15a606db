#include "tests/engine/scheduler_world.hpp"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/error.hpp"

namespace cogserve {
namespace {

uint64_t scramble(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace

int32_t world_token(uint64_t id, int index) {
  return static_cast<int32_t>(scramble(id * 1000003 + static_cast<uint64_t>(index)) % 97);
}

void WorldCounts::add(const WorldCounts& o) {
  steps += o.steps, empty_steps += o.empty_steps, rows += o.rows, tokens += o.tokens;
  submitted += o.submitted, refused += o.refused, taken += o.taken;
  preemptions += o.preemptions, pictures += o.pictures, finished += o.finished;
  passed += o.passed, turns += o.turns;
  cancelled += o.cancelled, deadlines += o.deadlines, queue_timeouts += o.queue_timeouts;
  slow_readers += o.slow_readers, numeric_faults += o.numeric_faults;
  step_faults += o.step_faults, excused_steps += o.excused_steps;
  oldest_waited = std::max(oldest_waited, o.oldest_waited);
  most_preemptions = std::max(most_preemptions, o.most_preemptions);
}

SchedulerWorld::SchedulerWorld(SchedulerConfig config, Pace pace)
    : config_(config),
      pace_(pace),
      scheduler_(config),
      memory_(static_cast<size_t>(config.num_blocks) * config.block_size) {}

void SchedulerWorld::mix(uint64_t value) { trace_ = scramble(trace_ ^ value); }

void SchedulerWorld::check_that(bool holds, const char* what, uint64_t id) const {
  if (holds) return;
  throw WorldError(absl::StrCat(what, " (request ", id, ", step ", counts_.steps, ")"));
}

bool SchedulerWorld::live(const Client& client) const {
  return client.sequence != nullptr && client.sequence->state != SequenceState::kFinished;
}

SchedulerWorld::Client* SchedulerWorld::find(uint64_t id) {
  const auto at =
      std::lower_bound(clients_.begin(), clients_.end(), id,
                       [](const auto& client, uint64_t key) { return client->id < key; });
  return at != clients_.end() && (*at)->id == id ? at->get() : nullptr;
}

absl::Status SchedulerWorld::submit(const WorldRequest& request, Clock::time_point now) {
  latest_ = std::max(latest_, now);
  auto sequence = std::make_unique<Sequence>();
  auto client = std::make_unique<Client>();
  client->id = sequence->id = next_id_++;
  client->request = request;
  sequence->request.max_tokens = request.max_tokens;
  sequence->request.ignore_eos = request.ignore_eos;
  sequence->request.deadline = request.deadline;
  sequence->request.caller = request.caller;
  if (request.stops) sequence->request.stop_token_ids = {kWorldStop};
  const std::vector<int32_t> text(request.text_tokens, 1000 + static_cast<int32_t>(client->id));
  sequence->layout = make_token_layout(1, 2, request.image_tokens, text);
  client->stream = sequence->stream = std::make_shared<TokenStream>(request.capacity);
  client->sequence = sequence.get();
  const absl::Status status = scheduler_.add(std::move(sequence), now);
  if (status.ok()) {
    ++counts_.submitted;
    clients_.push_back(std::move(client));
  } else {
    ++counts_.refused;
    check_that(!client->stream->pop().has_value(), "a refused request's stream was touched");
  }
  mix(static_cast<uint64_t>(status.code()));
  return status;
}

void SchedulerWorld::step(Clock::time_point now, StepFault fault,
                          const std::function<bool()>& poison) {
  clock_stands_ = now < latest_;
  latest_ = std::max(latest_, now);
  std::vector<Client*> doomed;
  for (const auto& client : clients_) {
    if (!live(*client)) continue;
    if (client->stream->cancelled() || client->request.deadline <= latest_) {
      doomed.push_back(client.get());
    }
  }
  const Plan plan = scheduler_.schedule(now);
  ++counts_.steps;
  counts_.empty_steps += plan.empty();
  check_ended(doomed);
  check_plan(plan);
  check_vision(plan);
  check_turns();
  check_order();
  check_preemptions();
  check_progress(plan);
  check_blocks();
  check_caps();

  settle(plan, start(plan, fault == StepFault::kNone ? poison : nullptr), fault, now);
  check_blocks();
  take_finished();
  snapshot();
}

// Computes the plan's rows and draws its tokens.
std::vector<SampledToken> SchedulerWorld::start(const Plan& plan,
                                                const std::function<bool()>& poison) {
  std::vector<SampledToken> sampled;
  for (const ChunkWork& chunk : plan.chunks) {
    compute(chunk);
    if (!chunk.samples) continue;
    sampled.emplace_back();
    sampled.back().id = world_token(chunk.sequence->id, chunk.sequence->generated());
    if (poison && poison()) {
      sampled.back().finite = false;
      find(chunk.sequence->id)->poisoned = true;
    }
  }
  return sampled;
}

// What the engine does with a plan that it has started.
void SchedulerWorld::settle(Plan plan, std::vector<SampledToken> sampled, StepFault fault,
                            Clock::time_point now) {
  const bool alone = pace_ == Pace::kInTurn || std::exchange(careful_, false);
  if (fault == StepFault::kFailAll || (alone && fault == StepFault::kFailPlan)) {
    fail(plan, fault, now);
    return;
  }
  if (fault == StepFault::kFailPlan) {
    take_back(plan);
    return;
  }
  if (alone) {
    scheduler_.commit(plan, sampled, now);
    return;
  }
  if (!flying_.empty()) scheduler_.commit(std::exchange(flying_, {}), flying_tokens_, now);
  if (plan.empty()) return;
  if (!can_advance(plan)) {
    scheduler_.commit(plan, sampled, now);
    return;
  }
  scheduler_.advance(&plan);
  flying_ = std::move(plan);
  flying_tokens_ = std::move(sampled);
}

void SchedulerWorld::fail(const Plan& plan, StepFault fault, Clock::time_point now) {
  const absl::Status status = make_error(absl::StatusCode::kInternal, "STEP_FAULT", "", "planted");
  for (const auto& client : clients_) {
    client->plan_failed |= fault == StepFault::kFailAll;
    client->plan_failed |= std::count(in_plan_.begin(), in_plan_.end(), client->sequence) > 0;
  }
  if (fault == StepFault::kFailPlan) {
    scheduler_.fail(plan, status, now);
    return;
  }
  scheduler_.fail_all(status, now);
  flying_ = {};
}

// Nothing that is under way counts; the next step goes alone.
void SchedulerWorld::take_back(const Plan& plan) {
  for (const Plan* const lost : {&plan, static_cast<const Plan*>(&flying_)}) {
    if (lost->empty()) continue;
    scheduler_.retract(*lost);
    for (const ChunkWork& chunk : lost->chunks) {
      Client* const client = find(chunk.sequence->id);  // null: it has ended and was forgotten
      if (client != nullptr) client->rows -= chunk.count;
    }
    for (const VisionWork& work : lost->vision) find(work.sequence->id)->encoded = false;
  }
  flying_ = {};
  careful_ = true;
}

int SchedulerWorld::flies_from(const Client& client) const {
  const auto found = std::ranges::find(flying_.chunks, client.sequence, &ChunkWork::sequence);
  return found == flying_.chunks.end() ? -1 : found->begin;
}

// Writes the chunk's slots, then reads every slot that its rows attend to.
void SchedulerWorld::compute(const ChunkWork& chunk) {
  const Sequence& s = *chunk.sequence;
  const int end = chunk.begin + chunk.count;
  for (int index = 0; index < end; ++index) {
    const int32_t block = s.block_table.at(index / config_.block_size);
    Slot& slot = memory_.at(block * config_.block_size + index % config_.block_size);
    const int output = index - s.layout.size();
    const int32_t token = output < 0 ? s.layout.ids[index] : world_token(s.id, output);
    if (index >= chunk.begin) {
      check_token(s, index, token);
      slot = {s.id, index, token};
    }
    check_that(slot.id == s.id && slot.index == index && slot.token == token,
               "a row reads a slot that is not its own", s.id);
  }
}

// What the sequence says of its token: the id, or where the newest draw has it.
void SchedulerWorld::check_token(const Sequence& s, int index, int32_t expected) const {
  const int32_t id = s.token_at(index);
  if (id >= 0) {
    check_that(id == expected, "a wrong token is computed", s.id);
    return;
  }
  const auto row = static_cast<size_t>(drawn_row(id));
  check_that(row < flying_tokens_.size() && flying_tokens_[row].id == expected,
             "a row takes another sequence's draw", s.id);
}

void SchedulerWorld::take_finished() {
  ended_ = scheduler_.take_finished();
  for (const std::unique_ptr<Sequence>& sequence : ended_) {
    check_that(sequence->state == SequenceState::kFinished, "handed back alive", sequence->id);
    check_that(sequence->block_table.empty(), "handed back with blocks", sequence->id);
    Client* const client = find(sequence->id);
    check_that(client != nullptr && client->sequence == sequence.get(), "handed back twice",
               sequence->id);
    client->sequence = nullptr;
    ++counts_.taken;
  }
}

void SchedulerWorld::snapshot() {
  for (const auto& client : clients_) {
    if (client->sequence == nullptr) continue;
    check_that(live(*client), "ended, but not handed back", client->id);
    client->state = client->sequence->state;
    client->preemptions = client->sequence->preemptions;
    client->blocks = static_cast<int>(client->sequence->block_table.size());
  }
}

void SchedulerWorld::read(Client& client, int limit) {
  for (int i = 0; i < limit; ++i) {
    const auto event = client.stream->pop();
    if (!event.has_value()) return;
    check_that(!client.ended, "an event after the end", client.id);
    if (const auto* token = std::get_if<TokenEvent>(&*event)) {
      check_that(token->token.id == world_token(client.id, client.received), "a wrong token",
                 client.id);
      ++client.received;
      ++counts_.tokens;
    } else {
      client.ended = true;
      check_end(client, std::get<EndEvent>(*event));
    }
  }
}

void SchedulerWorld::check_end(const Client& client, const EndEvent& end) {
  const WorldRequest& r = client.request;
  check_that(client.sequence == nullptr, "ended but not handed back", client.id);
  check_that(end.completion_tokens == client.received, "tokens are lost", client.id);
  check_that(end.image_tokens == r.image_tokens, "wrong usage", client.id);
  check_that(end.prompt_tokens == 1 + r.image_tokens + r.text_tokens, "wrong usage", client.id);
  const int32_t last =
      client.received > 0 ? world_token(client.id, client.received - 1) : int32_t{-1};
  const bool stopped = (last == kWorldEos && !r.ignore_eos) || (last == kWorldStop && r.stops);
  const std::string reason = error_reason(end.status);
  mix(static_cast<uint64_t>(end.status.code()) + client.id * 64);
  if (end.status.ok()) {
    ++counts_.finished;
    check_that(end.reason == (stopped ? FinishReason::kStop : FinishReason::kLength),
               "a wrong finish reason", client.id);
    check_that(stopped || client.received == r.max_tokens, "ended early", client.id);
    return;
  }
  check_that(!stopped && client.received < r.max_tokens, "went on after its end", client.id);
  if (reason == "CANCELLED") {
    ++counts_.cancelled;
    check_that(client.stream->cancelled(), "cancelled by nobody", client.id);
  } else if (reason == "DEADLINE_EXCEEDED") {
    ++counts_.deadlines;
    check_that(r.deadline <= latest_, "the deadline has not passed", client.id);
  } else if (reason == "QUEUE_TIMEOUT") {
    ++counts_.queue_timeouts;
    check_that(client.received == 0, "a started request timed out in the queue", client.id);
  } else if (reason == "SLOW_READER") {
    ++counts_.slow_readers;
    check_that(client.received >= r.capacity, "a reader that keeps up is called slow", client.id);
  } else if (reason == "NUMERIC_FAULT") {
    ++counts_.numeric_faults;
    check_that(client.poisoned, "a fault without cause", client.id);
  } else {
    ++counts_.step_faults;
    check_that(reason == "STEP_FAULT" && client.plan_failed, "a fault without cause", client.id);
  }
}

void SchedulerWorld::forget_ended() {
  std::erase_if(clients_, [](const auto& client) { return client->ended; });
}

void SchedulerWorld::check_at_rest() {
  check_that(idle(), "not idle at rest");
  check_that(scheduler_.blocks().num_free() == config_.num_blocks, "blocks are held at rest");
  check_that(clients_.empty(), "a request never ended");
  check_that(counts_.taken == counts_.submitted, "sequences are lost");
  check_that(scheduler_.queue().requests() == 0, "the queue is not empty at rest");
  const SchedulerStats stats = scheduler_.stats();
  check_that(stats.waiting == 0 && stats.running == 0, "stats are not zero at rest");
}

}  // namespace cogserve
