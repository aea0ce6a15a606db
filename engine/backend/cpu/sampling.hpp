// Rows of logits -> tokens. In this order: log-probabilities of the raw logits; banned tokens;
// repetition, presence and frequency penalties; then the largest (temperature 0), or temperature,
// top_k, top_p, min_p and a draw that depends on the seed and the output's index alone.
#pragma once

#include <span>
#include <vector>

#include "engine/backend/cpu/thread_pool.hpp"
#include "engine/backend/sampling.hpp"
#include "engine/base/tensor.hpp"

namespace cogserve::cpu {

// Scratch of one thread, kept from call to call.
struct SamplingScratch {
  std::vector<float> logits;     // [vocab]: after penalties
  std::vector<float> weights;    // [vocab]: e^((logit - largest) / temperature)
  std::vector<int32_t> counts;   // [vocab]: zero between rows
  std::vector<int32_t> kept;     // ids that may be drawn, ascending
  std::vector<int32_t> ordered;  // the same while they are being selected
};

// See Backend::start_sampling. logits [rows, vocab] f32; `scratch` has one entry for each worker.
void sample(const Tensor& logits, std::span<const SampleRow> rows, std::span<SampledToken> sampled,
            std::span<SamplingScratch> scratch, ThreadPool& pool);

}  // namespace cogserve::cpu
