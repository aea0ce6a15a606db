// Logits -> tokens on the device, one block a row. The same order of steps as on the CPU: banned
// tokens and penalties, then the largest, or temperature, top_k, top_p, min_p and a draw that
// depends on the seed and the output's index alone; log-probabilities are those of the raw logits.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "engine/base/tensor.hpp"

namespace cogserve::cuda {

inline constexpr int kMaxAlternatives = 20;

// One row's parameters. Ids lie one after the other in the array that goes with the launch: prompt,
// output, banned.
struct SampleTask {
  float temperature = 1.0f;
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  int32_t top_k = 0;
  int32_t logprobs = -1;
  uint64_t seed = 0;
  uint64_t draw = 0;       // how many tokens were put out before
  int32_t ids_begin = 0;   // in elements
  int32_t prompt_ids = 0;  // how many; 0 unless there is a penalty
  int32_t output_ids = 0;
  int32_t banned_ids = 0;
  int32_t scratch_row = -1;  // where changed logits go, -1 if nothing changes them
};

struct SampleResult {
  int32_t finite = 0;
  int32_t id = -1;
  float logprob = 0.0f;
  int32_t alternatives = 0;
  int32_t ids[kMaxAlternatives] = {};
  float logprobs[kMaxAlternatives] = {};
};

// logits [rows, vocab] f32. changed [scratch rows, vocab] f32; counts [scratch rows, vocab] i32 is
// zero before and after; drawn_ids [rows] gets each result's id once more. All are arrays of the
// device.
void sample(const Tensor& logits, const SampleTask* tasks, const int32_t* ids, float* changed,
            int32_t* counts, SampleResult* results, int32_t* drawn_ids, cudaStream_t stream);

}  // namespace cogserve::cuda
