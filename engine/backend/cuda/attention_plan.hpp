// How the rows of one step are shared out among blocks of the paged attention kernels. Plain
// arithmetic on the host: no CUDA here.
//
// A run of one row is a decode row: its keys are cut into splits of a fixed size, so that a long
// sequence keeps many blocks busy, and the splits' results are merged in ascending order. Where a
// split begins depends on the key's index alone, so a row's bits do not depend on its company.
// Longer runs are prefill: they are cut into tiles of consecutive tokens.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace cogserve::cuda {

inline constexpr int kSplitKeys = 128;

// The part of AttentionRun that counts here; row `row_begin + i` attends to keys 0 .. first_index +
// i.
struct PlannedRun {
  int row_begin = 0;
  int row_count = 0;
  int first_index = 0;
  int table_begin = 0;
};

struct PrefillTile {
  int row = 0;
  int tokens = 0;  // 1 .. tokens per tile
  int first_index = 0;
  int table_begin = 0;
};

// Keys [first_key, first_key + kSplitKeys) of one row, as far as they are below `keys`.
struct DecodeSplit {
  int row = 0;
  int first_key = 0;
  int keys = 0;
  int table_begin = 0;
};

// Row `row` is the sum of splits [split_begin, split_begin + splits) of its wave.
struct DecodeMerge {
  int row = 0;
  int split_begin = 0;
  int splits = 0;
};

// Splits whose results fit into the scratch memory together.
struct DecodeWave {
  int split_begin = 0;
  int splits = 0;
  int merge_begin = 0;
  int merges = 0;
};

// One row by itself, for the kernel that takes any head size.
struct SingleRow {
  int row = 0;
  int keys = 0;
  int table_begin = 0;
};

// Kept from step to step, so that its arrays keep their memory.
struct AttentionPlan {
  std::vector<PrefillTile> tiles;
  std::vector<DecodeSplit> splits;
  std::vector<DecodeMerge> merges;
  std::vector<DecodeWave> waves;

  void clear();
};

// `max_splits`: what the scratch memory holds; a row that needs more by itself is refused
// (InvariantError). Tiles with many keys come first, so that the last ones to finish are short.
void plan_attention(std::span<const PlannedRun> runs, int tokens_per_tile, int max_splits,
                    AttentionPlan* plan);

void plan_single_rows(std::span<const PlannedRun> runs, std::vector<SingleRow>* rows);

}  // namespace cogserve::cuda
