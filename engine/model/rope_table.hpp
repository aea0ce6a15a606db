// Cosine and sine of every position, as the upstream model computes them.
//
// A bf16 model was trained with angles in bf16, where positions beyond 256 are no longer exact:
// for it the bf16 table *is* the model. Owned by Decoder.
#pragma once

#include "absl/status/statusor.h"
#include "engine/backend/backend.hpp"
#include "engine/config.hpp"

namespace cogserve {

// What RopeDtype::kAuto means for a checkpoint whose embedding is stored as `weights`: bf16 for
// bf16, else f32. Never returns kAuto.
RopeDtype resolve_rope_dtype(RopeDtype wanted, DType weights);

// Both tables together, [max_positions, head_dim / 2] f32 each; the tensors point into `storage`.
struct RopeStorage {
  Buffer storage;
  RopeTable table;
};

// Bytes of both tables.
size_t rope_table_bytes(const ModelConfig& config);

// kBF16 rounds the position, the inverse frequency, their product, cosine and sine to bf16 each;
// kF32 computes all in f32.
absl::StatusOr<RopeStorage> make_rope_table(Backend* backend, const ModelConfig& config,
                                            RopeDtype dtype);

}  // namespace cogserve
