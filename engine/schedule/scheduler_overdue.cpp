// What ends for taking too long: deadlines, the queue, the first token, readers that lag.
#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/base/error.hpp"
#include "engine/schedule/end_event.hpp"
#include "engine/schedule/scheduler.hpp"

namespace cogserve {
namespace {

// In all queues, this one and those before it.
Clock::duration time_waited(const Sequence& s, Clock::time_point now) {
  return s.request.waited + (now - s.submitted);
}

// When the first token is due, if it is.
Clock::time_point first_token_due(const Sequence& s) {
  return s.output_ids.empty() ? s.request.first_token_by : Clock::time_point::max();
}

}  // namespace

void Scheduler::end_overdue() {
  const auto look_at = [this](Sequence& sequence) {
    watch_reader(sequence);
    if (const absl::Status status = overdue(sequence); !status.ok()) end(sequence, status);
  };
  for (const Owned& sequence : running_) look_at(*sequence);
  if (in_tower_) look_at(*in_tower_);
  for (const Owned& sequence : waiting_) look_at(*sequence);
  sweep();
}

void Scheduler::watch_reader(Sequence& sequence) const {
  const bool full = !sequence.output_ids.empty() && sequence.stream->full();
  if (full && !sequence.paused) sequence.paused_since = now_;
  if (!full && sequence.paused) sequence.paused_before += now_ - sequence.paused_since;
  sequence.paused = full;
}

// When a paused sequence is given up: after one long pause, or after as much in several if somebody
// waits for what it holds.
Clock::time_point Scheduler::reader_timeout(const Sequence& s) const {
  const Clock::duration earlier = s.id == in_the_way_ ? s.paused_before : Clock::duration(0);
  return s.paused_since + config_.slow_reader_time - earlier;
}

// Somebody cannot start for want of what `holds` says that a sequence has: of those whose readers
// lag, the slowest is in the way.
void Scheduler::blame_a_reader(bool (*holds)(const Sequence&)) {
  Clock::duration longest{-1};
  const auto look_at = [&](const Sequence& s) {
    if (!s.paused || !holds(s)) return;
    const Clock::duration paused = s.paused_before + (now_ - s.paused_since);
    if (paused <= longest) return;
    longest = paused;
    in_the_way_ = s.id;
  };
  for (const Owned& sequence : running_) look_at(*sequence);
  for (const Owned& sequence : waiting_) look_at(*sequence);
}

absl::Status Scheduler::overdue(const Sequence& s) const {
  if (s.stream->cancelled()) {
    return make_error(absl::StatusCode::kCancelled, "CANCELLED", "",
                      absl::StrCat("cancelled by the caller (phase: ", phase_of(s), ")"));
  }
  if (now_ >= s.request.deadline) {
    return with_phase(make_error(absl::StatusCode::kDeadlineExceeded, "DEADLINE_EXCEEDED", "",
                                 absl::StrCat("the deadline passed (phase: ", phase_of(s), ", ",
                                              s.output_ids.size(), " tokens generated)")),
                      phase_of(s));
  }
  if (!s.started() && time_waited(s, now_) >= config_.max_queue_time) {
    const std::string limit = format_ms(config_.max_queue_time);
    const absl::Status late =
        make_error(absl::StatusCode::kDeadlineExceeded, "QUEUE_TIMEOUT", "",
                   absl::StrCat("waited longer than ", limit, " in the queue"));
    return with_phase(with_limit(late, limit, format_ms(time_waited(s, now_))), phase_of(s));
  }
  if (now_ >= first_token_due(s)) {
    return with_phase(make_error(absl::StatusCode::kDeadlineExceeded, "FIRST_TOKEN_TIMEOUT", "",
                                 "the first token did not come in time"),
                      phase_of(s));
  }
  if (s.paused && now_ >= reader_timeout(s)) {
    const std::string limit = format_ms(config_.slow_reader_time);
    return with_limit(
        make_error(absl::StatusCode::kResourceExhausted, "SLOW_READER", "",
                   absl::StrCat("undelivered tokens were not read for ", limit, ", together")),
        limit, format_ms(s.paused_before + (now_ - s.paused_since)));
  }
  return absl::OkStatus();
}

Clock::time_point Scheduler::next_timeout() const {
  Clock::time_point next = Clock::time_point::max();
  const auto look_at = [&](const Sequence& s) {
    next = std::min(next, s.request.deadline);
    if (!s.started()) {
      next = std::min(next, s.submitted + (config_.max_queue_time - s.request.waited));
    }
    next = std::min(next, first_token_due(s));
    if (s.paused) next = std::min(next, reader_timeout(s));
  };
  for (const Owned& sequence : running_) look_at(*sequence);
  if (in_tower_) look_at(*in_tower_);
  for (const Owned& sequence : waiting_) look_at(*sequence);
  return next;
}

}  // namespace cogserve
