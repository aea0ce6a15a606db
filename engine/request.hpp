// One generation as the engine sees it: tokens and pixels in, tokens out.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/backend/sampling.hpp"

namespace cogserve {

using Clock = std::chrono::steady_clock;

struct Request {
  std::string id;                 // for logs only
  uint64_t caller = 0;            // who asks, for what callers share; 0 = nobody knows
  std::vector<int32_t> text_ids;  // the prompt's text, without BOS and image tokens
  std::vector<float> pixels;      // normalised [3, S, S] (CHW), or empty for no picture
  SamplingParams sampling;
  int max_tokens = 1024;
  int min_tokens = 0;
  bool ignore_eos = false;
  std::vector<int32_t> stop_token_ids;
  Clock::duration waited{0};  // in other queues, before it is submitted
  Clock::time_point deadline = Clock::time_point::max();
  Clock::time_point first_token_by = Clock::time_point::max();
};

enum class FinishReason { kStop, kLength };  // an end or stop token; max_tokens reached

// Where a request's time went. Zero for stages that it did not have.
struct RequestTimings {
  std::chrono::nanoseconds queue{0};    // submitted -> first scheduled
  std::chrono::nanoseconds vision{0};   // first scheduled -> features ready
  std::chrono::nanoseconds prefill{0};  // -> first token
  std::chrono::nanoseconds decode{0};   // first token -> last token
};

// A request's stream is zero or more tokens and then exactly one end. An end or stop token comes as
// a token too, so that the reader sees its id; turning it into no text is the reader's part.
struct TokenEvent {
  SampledToken token;
};

struct EndEvent {
  absl::Status status = absl::OkStatus();  // ok: `reason` says why it ended
  FinishReason reason = FinishReason::kStop;
  int prompt_tokens = 0;  // BOS and image tokens included
  int image_tokens = 0;
  int completion_tokens = 0;  // sampled; a final end token counts
  int preemptions = 0;
  RequestTimings timings = {};
};

}  // namespace cogserve
