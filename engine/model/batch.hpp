// The arrays that one forward pass of the decoder reads. Built by `engine/run/batch_builder`.
//
// Rows are ordered vision first, then language, for the whole pass: the expert of a row is which
// side of `vision_rows` it is on, and an expert layer is two `linear` calls on two row ranges.
//
// Example: a prompt BOS boi p p p p eoi "hi" (ids of 8 tokens, image tokens at 1..6) prefilled
// whole, with block size 4 and block table {7, 2}, beside a decode row of another sequence whose
// 10th token (index 9, position 6) is fed, block table {0, 1, 3}:
//   vision_rows   5                                  boi p p p p | BOS eoi hi | decode
//   token_ids    -1 -1 -1 -1 -1   0 -1 42   77       image rows come from `image_rows`
//   positions     1  2  2  2  2   0  3  4    6       RoPE
//   slots        29 30 31  8  9  28 10 11   13       block * block_size + offset
//   runs         {0,5,1,0} {5,1,0,0} {6,2,6,0} {8,1,9,2}
//   block_tables {7, 2, 0, 1, 3}
//   image_rows   {features, 0, 0, 5} {features, 5, 6, 1}
//   logit_rows   {7, 8}                              the last prompt token and the decode row
#pragma once

#include <cstdint>
#include <vector>

#include "engine/backend/backend.hpp"
#include "engine/base/tensor.hpp"

namespace cogserve {

// Rows [row, row + count) of the step take their input from rows [feature_row, ...) of an image's
// features.
struct ImageRows {
  Tensor features;  // [image_tokens, hidden]
  int feature_row = 0;
  int row = 0;
  int count = 0;
};

struct Batch {
  int vision_rows = 0;
  // [rows]; kNoToken where the input is an image feature, drawn_token(i) where the id is drawn in
  // the step before and not known yet.
  std::vector<int32_t> token_ids;
  std::vector<int32_t> positions;     // [rows]
  std::vector<int64_t> slots;         // [rows], kNoSlot where keys and values are kept nowhere
  std::vector<AttentionRun> runs;     // cover every row once
  std::vector<int32_t> block_tables;  // of all sequences, one after the other
  std::vector<ImageRows> image_rows;
  std::vector<int32_t> logit_rows;  // ascending in the order of the plan's sampled sequences

  int rows() const { return static_cast<int>(token_ids.size()); }
  // Whether every row is a sequence's newest token by itself, and all of them want logits, in
  // order.
  bool decodes() const;
};

}  // namespace cogserve
