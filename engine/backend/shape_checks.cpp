#include "engine/backend/shape_checks.hpp"

#include "engine/base/check.hpp"

namespace cogserve {

void check_rope_rows(std::span<const int32_t> positions, std::span<const int64_t> slots,
                     int64_t limit, const KvLayer& kv) {
  const int64_t capacity = int64_t{kv.num_blocks} * kv.block_size;
  for (const int64_t slot : slots) {
    check(slot == kNoSlot || (slot >= 0 && slot < capacity), "rope: slot outside the cache");
  }
  for (const int32_t position : positions) {
    check(position >= 0 && position < limit, "rope: position out of range");
  }
}

void check_penalties(const SampleRow& row) {
  check(row.unknown_ids == 0 || !penalises(row.params),
        "start_sampling: penalties look at ids that are not known yet");
}

void check_runs(std::span<const AttentionRun> runs, std::span<const int32_t> block_tables,
                const KvLayer& kv, int64_t rows) {
  for (const AttentionRun& run : runs) {
    check(run.row_begin >= 0 && run.row_count >= 0 && run.row_begin + run.row_count <= rows,
          "paged_attention: run outside the rows");
    const int64_t keys = int64_t{run.first_index} + run.row_count;
    const int64_t blocks = (keys + kv.block_size - 1) / kv.block_size;
    check(run.first_index >= 0 && run.table_begin >= 0 &&
              run.table_begin + blocks <= static_cast<int64_t>(block_tables.size()),
          "paged_attention: run beyond its block table");
    for (int32_t block : block_tables.subspan(run.table_begin, blocks)) {
      check(block >= 0 && block < kv.num_blocks, "paged_attention: block outside the cache");
    }
  }
}

}  // namespace cogserve
