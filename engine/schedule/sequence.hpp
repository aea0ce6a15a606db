// A request on its way through the engine: data only, owned by the Scheduler, engine thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "engine/backend/sampling.hpp"
#include "engine/request.hpp"
#include "engine/schedule/token_layout.hpp"
#include "engine/token_stream.hpp"

namespace cogserve {

// The time of what has not happened.
inline constexpr Clock::time_point kNever = Clock::time_point::min();

// waiting -> running -> finished. A picture adds encoding -> waiting in front; a preempted sequence
// goes back to waiting.
enum class SequenceState {
  kWaiting,   // holds no blocks; not started, or encoded, or preempted
  kEncoding,  // its picture is in the vision tower; holds no blocks
  kRunning,   // holds blocks: prefilling or decoding
  kFinished,
};

struct Sequence {
  uint64_t id = 0;  // unique, ascending in order of arrival
  // Its place in the line: its id, until pictures change places. Unique too; "older" means before.
  uint64_t order = 0;
  Request request;
  TokenLayout layout;
  std::shared_ptr<TokenStream> stream;

  SequenceState state = SequenceState::kWaiting;
  std::vector<int32_t> output_ids;  // tokens sampled so far: the truth; the cache is a copy
  // Not -1: one more token was drawn, in this row of the newest draw, and its id is not known yet.
  int drawn_row = -1;
  std::vector<int32_t> block_table;  // block ids, in order of token index
  int num_computed = 0;              // tokens whose KV is in the cache
  int vision_layers_done = 0;        // of the picture's tower run
  bool features_ready = false;       // the picture's features are kept until the end
  bool paused = false;               // its reader lags: not planned, first to be preempted
  int preemptions = 0;
  int overtaken = 0;  // younger ones started while it was the tower's oldest, since the last turn
  int ahead = 0;      // of its kind, picture or text, expected to start before it when it came
  uint64_t starts_before = 0;  // of its kind, when it came

  Clock::time_point submitted = kNever;  // stamped by Scheduler::add unless the caller did
  Clock::time_point scheduled = kNever;  // first time in a plan
  Clock::time_point encoded = kNever;    // features ready
  Clock::time_point first_token = kNever;
  Clock::time_point last_token = kNever;
  Clock::time_point paused_since = kNever;
  Clock::duration paused_before{0};  // in all, without the pause that lasts

  // Pixels and ids that it holds while it waits.
  size_t queue_bytes() const {
    return request.pixels.size() * sizeof(float) + request.text_ids.size() * sizeof(int32_t) +
           layout.ids.size() * (2 * sizeof(int32_t) + sizeof(uint8_t));
  }
  bool has_image() const { return layout.image_tokens > 0; }
  bool needs_tower() const { return has_image() && !features_ready; }
  bool started() const { return scheduled != kNever; }
  bool has_drawn() const { return drawn_row >= 0; }
  // Tokens put out so far, one whose id is not known yet included.
  int generated() const { return static_cast<int>(output_ids.size()) + has_drawn(); }
  // Prompt and output so far. All but the newest sampled token must be computed before the next
  // token can be sampled; a decode step computes exactly that newest one.
  int total_tokens() const { return layout.size() + generated(); }
  // Tokens to compute before the next one can be sampled; one while it decodes.
  int pending_tokens() const { return total_tokens() - num_computed; }
  // A drawn_token where the id is not known yet.
  int32_t token_at(int index) const {
    if (index < layout.size()) return layout.ids[index];
    const auto output = static_cast<size_t>(index - layout.size());
    return output < output_ids.size() ? output_ids[output] : drawn_token(drawn_row);
  }
  int position_at(int index) const {
    return index < layout.size() ? layout.positions[index]
                                 : layout.generated_position(index - layout.size());
  }
  bool vision_at(int index) const { return index < layout.size() && layout.vision[index] != 0; }
  // The most tokens whose KV it can ever hold (the last sampled token is never fed back).
  int max_kv_tokens() const { return layout.size() + request.max_tokens - 1; }
};

}  // namespace cogserve
