// The limits that scheduling works within, and whether a request can ever run within them.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"

namespace cogserve {

struct SchedulerConfig {
  int num_blocks = 0;
  int block_size = 16;
  int max_model_len = 0;
  int max_num_seqs = 64;
  int max_pictures = 64;             // encoded ones that are kept at the same time
  int max_num_batched_tokens = 512;  // rows of a step: decode rows and prefill chunks together
  int vision_layers = 0;             // of the tower
  int vision_layers_per_step = 1;    // unless max_itl says otherwise
  std::chrono::nanoseconds max_itl{
      0};  // between the tokens of a stream, while the tower runs; 0 = any
  int max_queue_size = 256;
  size_t max_queue_bytes = size_t{512} << 20;  // pixels and ids of waiting requests
  std::chrono::milliseconds max_queue_time{30000};
  std::chrono::milliseconds slow_reader_time{10000};
  std::vector<int32_t> eos_ids = {};
};

// Whether a request can ever run: INVALID_ARGUMENT CONTEXT_LENGTH (prompt and answer are longer
// than max_model_len) or KV_NEVER_FITS (longer than the whole cache). Thread-safe: `add` checks the
// same, the engine asks before it queues.
absl::Status check_fits(const SchedulerConfig& config, int prompt_tokens, int max_tokens);

}  // namespace cogserve
