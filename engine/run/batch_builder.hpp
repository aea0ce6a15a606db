// Plan -> Batch: which rows a step computes, in the order the decoder wants them.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "engine/model/batch.hpp"
#include "engine/schedule/plan.hpp"

namespace cogserve {

// Features of a sequence's picture: [image_tokens, hidden].
using FeatureLookup = std::function<Tensor(const Sequence&)>;

// A pure function of the plan and the sequences' data. Rows: all vision rows of all chunks, then
// all language rows; within each side, chunks in the plan's order. `logit_rows` holds the row of
// the last token of each chunk that samples, in the plan's order. Throws InvariantError when a
// chunk reaches outside its sequence, its block table or the vocabulary.
Batch build_batch(std::span<const ChunkWork> chunks, int block_size, int vocab,
                  const FeatureLookup& features);

// Adds decode rows that belong to no sequence, up to `rows` in all. The first leaves its key and
// value in `spare_block`; that is all that any of them looks at. `batch` decodes.
void pad_batch(int rows, int32_t spare_block, int block_size, Batch* batch);

}  // namespace cogserve
