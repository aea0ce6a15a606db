// What turns a row of logits into a token: parameters in, token and log-probabilities out.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace cogserve {

// In the place of a token id: no token, and the token of row `row` of the newest draw (see
// Backend::embed).
inline constexpr int32_t kNoToken = -1;
constexpr int32_t drawn_token(int row) { return -2 - row; }
constexpr int drawn_row(int32_t id) { return -2 - id; }

// Ranges are checked by the server; the defaults leave the distribution as it is.
struct SamplingParams {
  float temperature = 1.0f;         // 0 = greedy (ties: the lowest id)
  float top_p = 1.0f;               // (0, 1]
  float min_p = 0.0f;               // [0, 1], relative to the likeliest token
  int top_k = 0;                    // 0 = off
  float repetition_penalty = 1.0f;  // over prompt and output: l > 0 ? l / p : l * p
  float presence_penalty = 0.0f;    // over output: l - p
  float frequency_penalty = 0.0f;   // over output: l - p * count
  uint64_t seed = 0;
  int logprobs = -1;  // -1 = none, else the number of alternatives (0..20)
};

// Whether tokens that were seen before count.
inline bool penalises(const SamplingParams& params) {
  return params.repetition_penalty != 1.0f || params.presence_penalty != 0.0f ||
         params.frequency_penalty != 0.0f;
}

// One row to sample. The spans live until `start_sampling` returns. Where penalties count, all ids
// are known.
struct SampleRow {
  SamplingParams params;
  std::span<const int32_t> prompt_ids;
  std::span<const int32_t> output_ids;
  std::span<const int32_t> banned_ids;  // end tokens while min_tokens is not reached
  int unknown_ids = 0;  // how many outputs more there are, whose ids the host does not know yet

  // The index of the token that is drawn, which seeds the draw.
  size_t index() const { return output_ids.size() + static_cast<size_t>(unknown_ids); }
};

struct TokenLogprob {
  int32_t id = 0;
  float logprob = 0.0f;
};

// Log-probabilities are those of the model itself: log-softmax of the raw logits, before
// penalties, temperature and truncation.
struct SampledToken {
  bool finite = true;
  int32_t id = -1;
  float logprob = 0.0f;
  std::vector<TokenLogprob> top;  // descending; empty unless asked for
};

}  // namespace cogserve
