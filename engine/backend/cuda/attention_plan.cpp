#include "engine/backend/cuda/attention_plan.hpp"

#include <algorithm>

#include "engine/base/check.hpp"

namespace cogserve::cuda {
namespace {

void add_tiles(const PlannedRun& run, int tokens_per_tile, AttentionPlan* plan) {
  for (int i = 0; i < run.row_count; i += tokens_per_tile) {
    plan->tiles.push_back({run.row_begin + i, std::min(tokens_per_tile, run.row_count - i),
                           run.first_index + i, run.table_begin});
  }
}

void add_splits(const PlannedRun& run, int max_splits, AttentionPlan* plan) {
  const int keys = run.first_index + 1;
  const int splits = (keys + kSplitKeys - 1) / kSplitKeys;
  check(splits <= max_splits, "paged_attention: a sequence fits into the scratch memory");
  if (plan->waves.empty() || plan->waves.back().splits + splits > max_splits) {
    plan->waves.push_back(
        {static_cast<int>(plan->splits.size()), 0, static_cast<int>(plan->merges.size()), 0});
  }
  DecodeWave& wave = plan->waves.back();
  plan->merges.push_back({run.row_begin, wave.splits, splits});
  for (int i = 0; i < splits; ++i) {
    plan->splits.push_back({run.row_begin, i * kSplitKeys, keys, run.table_begin});
  }
  wave.splits += splits;
  ++wave.merges;
}

}  // namespace

void AttentionPlan::clear() {
  tiles.clear();
  splits.clear();
  merges.clear();
  waves.clear();
}

void plan_attention(std::span<const PlannedRun> runs, int tokens_per_tile, int max_splits,
                    AttentionPlan* plan) {
  plan->clear();
  for (const PlannedRun& run : runs) {
    if (run.row_count == 1) {
      add_splits(run, max_splits, plan);
    } else {
      add_tiles(run, tokens_per_tile, plan);
    }
  }
  std::stable_sort(plan->tiles.begin(), plan->tiles.end(),
                   [](const PrefillTile& a, const PrefillTile& b) {
                     return a.first_index + a.tokens > b.first_index + b.tokens;
                   });
}

void plan_single_rows(std::span<const PlannedRun> runs, std::vector<SingleRow>* rows) {
  rows->clear();
  for (const PlannedRun& run : runs) {
    for (int i = 0; i < run.row_count; ++i) {
      rows->push_back({run.row_begin + i, run.first_index + i + 1, run.table_begin});
    }
  }
}

}  // namespace cogserve::cuda
