#include "engine/run/batch_builder.hpp"

#include <algorithm>

#include "engine/base/check.hpp"

namespace cogserve {
namespace {

// Appends the rows of one step to a Batch, one expert's side after the other.
class RowAppender {
 public:
  RowAppender(int block_size, int vocab, const FeatureLookup& features, Batch* batch)
      : block_size_(block_size), vocab_(vocab), features_(features), batch_(*batch) {}

  // The chunk's tokens that belong to one expert, as runs of consecutive tokens.
  void append(const ChunkWork& chunk, int table_begin, bool vision) {
    const Sequence& sequence = *chunk.sequence;
    const int end = chunk.begin + chunk.count;
    for (int index = chunk.begin; index < end; ++index) {
      if (sequence.vision_at(index) != vision) continue;
      const bool starts_run = index == chunk.begin || sequence.vision_at(index - 1) != vision;
      if (starts_run) {
        batch_.runs.push_back({.row_begin = batch_.rows(),
                               .row_count = 0,
                               .first_index = index,
                               .table_begin = table_begin});
      }
      ++batch_.runs.back().row_count;
      append_row(sequence, index);
    }
  }

 private:
  void append_row(const Sequence& sequence, int index) {
    const int32_t block = sequence.block_table[index / block_size_];
    batch_.slots.push_back(int64_t{block} * block_size_ + index % block_size_);
    batch_.positions.push_back(sequence.position_at(index));
    if (sequence.layout.is_image(index)) {
      append_image_row(sequence, index - sequence.layout.image_begin);
      batch_.token_ids.push_back(kNoToken);
      return;
    }
    const int32_t id = sequence.token_at(index);
    check((id >= 0 || drawn_row(id) >= 0) && id < vocab_, "token id outside the vocabulary");
    batch_.token_ids.push_back(id);
  }

  void append_image_row(const Sequence& sequence, int feature_row) {
    const int row = batch_.rows();
    if (!batch_.image_rows.empty()) {
      ImageRows& last = batch_.image_rows.back();
      if (last_image_ == &sequence && last.row + last.count == row &&
          last.feature_row + last.count == feature_row) {
        ++last.count;
        return;
      }
    }
    last_image_ = &sequence;
    batch_.image_rows.push_back(
        {.features = features_(sequence), .feature_row = feature_row, .row = row, .count = 1});
  }

  const int block_size_;
  const int vocab_;
  const FeatureLookup& features_;
  Batch& batch_;
  const Sequence* last_image_ = nullptr;
};

void check_chunk(const ChunkWork& chunk, int block_size) {
  const Sequence& sequence = *chunk.sequence;
  const int end = chunk.begin + chunk.count;
  check(chunk.count > 0 && chunk.begin == sequence.num_computed, "chunk does not follow the cache");
  check(end <= sequence.total_tokens(), "chunk reaches past its sequence");
  check(end <= static_cast<int>(sequence.block_table.size()) * block_size,
        "chunk reaches past its block table");
  check(!chunk.samples || end == sequence.total_tokens(), "sampling before the newest token");
}

}  // namespace

Batch build_batch(std::span<const ChunkWork> chunks, int block_size, int vocab,
                  const FeatureLookup& features) {
  Batch batch;
  std::vector<int> table_begins;
  for (const ChunkWork& chunk : chunks) {
    check_chunk(chunk, block_size);
    table_begins.push_back(static_cast<int>(batch.block_tables.size()));
    const auto& table = chunk.sequence->block_table;
    const int used = (chunk.begin + chunk.count + block_size - 1) / block_size;
    batch.block_tables.insert(batch.block_tables.end(), table.begin(), table.begin() + used);
  }
  RowAppender appender(block_size, vocab, features, &batch);
  for (size_t i = 0; i < chunks.size(); ++i) appender.append(chunks[i], table_begins[i], true);
  batch.vision_rows = batch.rows();
  for (size_t i = 0; i < chunks.size(); ++i) {
    appender.append(chunks[i], table_begins[i], false);
    // The newest token is always a language token, so it is the last row appended just now.
    if (chunks[i].samples) batch.logit_rows.push_back(batch.rows() - 1);
  }
  return batch;
}

void pad_batch(int rows, int32_t spare_block, int block_size, Batch* batch) {
  if (batch->rows() >= rows) return;
  const int first = batch->rows();
  const int table_begin = static_cast<int>(batch->block_tables.size());
  batch->block_tables.push_back(spare_block);
  for (int row = first; row < rows; ++row) {
    batch->token_ids.push_back(0);
    batch->positions.push_back(0);
    batch->slots.push_back(row == first ? int64_t{spare_block} * block_size : kNoSlot);
    batch->runs.push_back(
        {.row_begin = row, .row_count = 1, .first_index = 0, .table_begin = table_begin});
    batch->logit_rows.push_back(row);
  }
}

}  // namespace cogserve
