// What a caller is told when a sequence ends. Pure functions.
#pragma once

#include "absl/status/status.h"
#include "engine/request.hpp"
#include "engine/schedule/sequence.hpp"

namespace cogserve {

// "queue", "vision", "prefill" or "decode".
const char* phase_of(const Sequence& sequence);

// Usage and timings of a sequence that ends at `now`.
EndEvent make_end_event(const Sequence& sequence, const absl::Status& status, FinishReason reason,
                        Clock::time_point now);

}  // namespace cogserve
