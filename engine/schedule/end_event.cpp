#include "engine/schedule/end_event.hpp"

#include <algorithm>

namespace cogserve {
namespace {

// A stage that has begun and not ended lasts until now.
std::chrono::nanoseconds stage(Clock::time_point begin, Clock::time_point end,
                               Clock::time_point now) {
  if (begin == kNever) return std::chrono::nanoseconds(0);
  return std::max((end == kNever ? now : end) - begin, Clock::duration(0));
}

RequestTimings timings_of(const Sequence& s, Clock::time_point now) {
  RequestTimings timings;
  timings.queue = stage(s.submitted, s.scheduled, now);
  if (s.has_image()) timings.vision = stage(s.scheduled, s.encoded, now);
  timings.prefill = stage(s.has_image() ? s.encoded : s.scheduled, s.first_token, now);
  timings.decode = stage(s.first_token, s.last_token, now);
  return timings;
}

}  // namespace

const char* phase_of(const Sequence& sequence) {
  if (!sequence.started()) return "queue";
  if (sequence.needs_tower()) return "vision";
  return sequence.output_ids.empty() ? "prefill" : "decode";
}

EndEvent make_end_event(const Sequence& sequence, const absl::Status& status, FinishReason reason,
                        Clock::time_point now) {
  EndEvent event;
  event.status = status;
  event.reason = reason;
  event.prompt_tokens = sequence.layout.size();
  event.image_tokens = sequence.layout.image_tokens;
  event.completion_tokens = static_cast<int>(sequence.output_ids.size());
  event.preemptions = sequence.preemptions;
  event.timings = timings_of(sequence, now);
  return event;
}

}  // namespace cogserve
