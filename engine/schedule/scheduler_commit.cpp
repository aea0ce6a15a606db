// What becomes of a plan: tokens are appended, sequences end.
#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/check.hpp"
#include "engine/base/error.hpp"
#include "engine/schedule/end_event.hpp"
#include "engine/schedule/scheduler.hpp"

namespace cogserve {
namespace {

bool contains(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

void Scheduler::commit(const Plan& plan, std::span<const SampledToken> sampled,
                       Clock::time_point now) {
  check(plan.size() <= (plan.advanced ? advanced_work_ : open_work_), "a plan is committed once");
  now_ = std::max(now_, now);
  observe_pace(plan);
  close(plan);
  for (const VisionWork& work : plan.vision) finish_vision(work);
  size_t next = 0;
  for (const ChunkWork& chunk : plan.chunks) {
    Sequence& sequence = *chunk.sequence;
    if (!plan.advanced) sequence.num_computed += chunk.count;
    if (!chunk.samples) continue;
    check(next < sampled.size(), "too few tokens were sampled");
    const SampledToken& token = sampled[next++];
    if (sequence.state == SequenceState::kFinished) continue;
    sequence.drawn_row = -1;
    append(sequence, token);
  }
  check(next == sampled.size(), "too many tokens were sampled");
  sweep();
}

// What a whole step took, which begins when the one before it ends if it was planned earlier; one
// that is committed in parts was no ordinary one, and a part was not made by schedule().
void Scheduler::observe_pace(const Plan& plan) {
  const Clock::time_point begin = std::max(plan.made, committed_);
  committed_ = now_;
  if (plan.empty() || plan.made == Clock::time_point{}) return;
  if (plan.size() != (plan.advanced ? advanced_work_ : open_work_)) return;
  const int layers = plan.vision.empty() ? 0 : plan.vision.front().count;
  vision_pacer_.observe(layers, !plan.chunks.empty(), now_ - begin);
}

// A commit that broke half way has closed its plan already, and is followed by a fail of the same.
void Scheduler::close(const Plan& plan) {
  size_t& work = plan.advanced ? advanced_work_ : open_work_;
  work -= std::min(work, plan.size());
}

void Scheduler::advance(Plan* plan) {
  check(!plan->advanced && plan->size() == open_work_ && can_advance(*plan),
        "a plan that was made last advances");
  check(advanced_work_ == 0, "one plan is advanced at a time");
  int row = 0;
  for (const ChunkWork& chunk : plan->chunks) {
    Sequence& sequence = *chunk.sequence;
    const int drawn_row = chunk.samples ? row++ : -1;
    if (sequence.state == SequenceState::kFinished) continue;
    sequence.num_computed += chunk.count;
    sequence.drawn_row = drawn_row;
  }
  close(*plan);
  plan->advanced = true;
  advanced_work_ = plan->size();
}

void Scheduler::retract(const Plan& plan) {
  close(plan);
  for (const VisionWork& work : plan.vision) work.sequence->vision_layers_done = 0;
  if (!plan.advanced) return;
  for (const ChunkWork& chunk : plan.chunks) {
    Sequence& sequence = *chunk.sequence;
    sequence.drawn_row = -1;
    // Unless it has lost its blocks since.
    if (sequence.num_computed == chunk.begin + chunk.count) sequence.num_computed = chunk.begin;
  }
}

void Scheduler::append(Sequence& sequence, const SampledToken& token) {
  if (!token.finite) {
    end(sequence, make_error(absl::StatusCode::kInternal, "NUMERIC_FAULT", "",
                             absl::StrCat("the model's output is not finite at token ",
                                          sequence.output_ids.size())));
    return;
  }
  const Request& request = sequence.request;
  if (sequence.output_ids.empty()) sequence.first_token = now_;
  sequence.last_token = now_;
  sequence.output_ids.push_back(token.id);
  sequence.stream->push(TokenEvent{token});
  if ((!request.ignore_eos && contains(config_.eos_ids, token.id)) ||
      contains(request.stop_token_ids, token.id)) {
    end(sequence, absl::OkStatus(), FinishReason::kStop);
  } else if (static_cast<int>(sequence.output_ids.size()) >= request.max_tokens) {
    end(sequence, absl::OkStatus(), FinishReason::kLength);
  }
}

void Scheduler::fail(const Plan& plan, const absl::Status& status, Clock::time_point now) {
  now_ = std::max(now_, now);
  close(plan);
  for (const VisionWork& work : plan.vision) end(*work.sequence, status);
  for (const ChunkWork& chunk : plan.chunks) end(*chunk.sequence, status);
  sweep();
}

void Scheduler::fail_all(const absl::Status& status, Clock::time_point now) {
  now_ = std::max(now_, now);
  open_work_ = 0;
  advanced_work_ = 0;
  for (const Owned& sequence : running_) end(*sequence, status);
  if (in_tower_) end(*in_tower_, status);
  for (const Owned& sequence : waiting_) end(*sequence, status);
  sweep();
}

// The caller is told; the sequence stays where it is until sweep(). Ending twice is ending once.
void Scheduler::end(Sequence& sequence, const absl::Status& status, FinishReason reason) {
  if (sequence.state == SequenceState::kFinished) return;
  EndEvent event = make_end_event(sequence, status, reason, now_);
  release_blocks(sequence);
  growth_reserve_ -= growth_reserve_ / 32;
  if (sequence.state == SequenceState::kEncoding || sequence.features_ready) --features_held_;
  if (!sequence.started()) leave_queue(sequence);
  sequence.state = SequenceState::kFinished;
  any_ended_ = true;
  sequence.stream->finish(std::move(event));
}

void Scheduler::sweep() {
  if (!any_ended_) return;
  any_ended_ = false;
  const auto take_ended = [this](auto& sequences) {
    const auto ended = std::stable_partition(
        sequences.begin(), sequences.end(),
        [](const Owned& sequence) { return sequence->state != SequenceState::kFinished; });
    std::move(ended, sequences.end(), std::back_inserter(finished_));
    sequences.erase(ended, sequences.end());
  };
  take_ended(waiting_);
  take_ended(running_);
  if (in_tower_ && in_tower_->state == SequenceState::kFinished) {
    finished_.push_back(std::move(in_tower_));
  }
}

std::vector<std::unique_ptr<Sequence>> Scheduler::take_finished() {
  return std::exchange(finished_, {});
}

}  // namespace cogserve
