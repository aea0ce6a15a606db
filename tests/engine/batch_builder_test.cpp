#include "engine/run/batch_builder.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/base/check.hpp"

namespace cogserve {
namespace {

using ::testing::ElementsAre;

constexpr int32_t kBos = 0;
constexpr int32_t kImage = 9;
constexpr int kVocab = 100;

Sequence make_sequence(int image_tokens, const std::vector<int32_t>& text,
                       std::vector<int32_t> block_table) {
  Sequence sequence;
  sequence.layout = make_token_layout(kBos, kImage, image_tokens, text);
  sequence.block_table = std::move(block_table);
  return sequence;
}

Tensor no_features(const Sequence&) { return {}; }

std::vector<int> flatten(const std::vector<AttentionRun>& runs) {
  std::vector<int> values;
  for (const AttentionRun& run : runs) {
    values.insert(values.end(), {run.row_begin, run.row_count, run.first_index, run.table_begin});
  }
  return values;
}

// The worked example in batch.hpp.
TEST(BatchBuilder, orders_vision_rows_first_and_keeps_each_rows_clocks) {
  Sequence prompt = make_sequence(6, {42}, {7, 2});
  Sequence decoding = make_sequence(6, {43, 44}, {0, 1, 3});
  decoding.output_ids = {77};
  decoding.num_computed = 9;
  const std::vector<ChunkWork> chunks = {{&prompt, 0, 8, true}, {&decoding, 9, 1, true}};

  const Batch batch = build_batch(chunks, 4, kVocab, no_features);

  EXPECT_EQ(batch.vision_rows, 5);
  EXPECT_THAT(batch.token_ids, ElementsAre(-1, -1, -1, -1, -1, kBos, -1, 42, 77));
  EXPECT_THAT(batch.positions, ElementsAre(1, 2, 2, 2, 2, 0, 3, 4, 6));
  EXPECT_THAT(batch.slots, ElementsAre(29, 30, 31, 8, 9, 28, 10, 11, 13));
  EXPECT_THAT(flatten(batch.runs), ElementsAre(0, 5, 1, 0, 5, 1, 0, 0, 6, 2, 6, 0, 8, 1, 9, 2));
  EXPECT_THAT(batch.block_tables, ElementsAre(7, 2, 0, 1, 3));
  EXPECT_THAT(batch.logit_rows, ElementsAre(7, 8));
  ASSERT_EQ(batch.image_rows.size(), 2u);
  EXPECT_EQ(batch.image_rows[0].feature_row, 0);
  EXPECT_EQ(batch.image_rows[0].count, 5);
  EXPECT_EQ(batch.image_rows[1].feature_row, 5);
  EXPECT_EQ(batch.image_rows[1].row, 6);
  EXPECT_EQ(batch.image_rows[1].count, 1);
}

TEST(BatchBuilder, gives_a_token_the_same_clocks_in_whatever_chunk_it_falls) {
  for (const int chunk_size : {1, 2, 3, 5, 8}) {
    Sequence sequence = make_sequence(6, {42, 43, 44}, {5, 6, 7});
    std::vector<int32_t> positions(sequence.total_tokens(), -1);
    std::vector<int> vision(sequence.total_tokens(), -1);
    while (sequence.num_computed < sequence.total_tokens()) {
      const int count = std::min(chunk_size, sequence.total_tokens() - sequence.num_computed);
      const std::vector<ChunkWork> chunks = {{&sequence, sequence.num_computed, count, false}};
      const Batch batch = build_batch(chunks, 4, kVocab, no_features);
      for (const AttentionRun& run : batch.runs) {
        for (int i = 0; i < run.row_count; ++i) {
          positions[run.first_index + i] = batch.positions[run.row_begin + i];
          vision[run.first_index + i] = run.row_begin + i < batch.vision_rows ? 1 : 0;
        }
      }
      sequence.num_computed += count;
    }
    EXPECT_THAT(positions, ElementsAre(0, 1, 2, 2, 2, 2, 3, 4, 5, 6)) << chunk_size;
    EXPECT_THAT(vision, ElementsAre(0, 1, 1, 1, 1, 1, 0, 0, 0, 0)) << chunk_size;
  }
}

TEST(BatchBuilder, keeps_the_image_rows_of_two_pictures_apart) {
  Sequence first = make_sequence(3, {1}, {0, 1});
  Sequence second = make_sequence(3, {2}, {2, 3});
  float storage[2] = {};
  const auto features = [&](const Sequence& sequence) {
    return Tensor::matrix(&storage[&sequence == &first ? 0 : 1], DType::kF32, 3, 1);
  };
  // The first one's last image row follows the second one's, in the batch and by its number.
  first.num_computed = 2;
  const std::vector<ChunkWork> chunks = {{&first, 2, 3, true}, {&second, 0, 5, true}};
  const Batch batch = build_batch(chunks, 4, kVocab, features);
  ASSERT_EQ(batch.image_rows.size(), 4u);
  EXPECT_EQ(batch.image_rows[0].features.data, &storage[0]);
  EXPECT_EQ(batch.image_rows[1].features.data, &storage[1]);
  EXPECT_EQ(batch.image_rows[1].row, 1);
  EXPECT_EQ(batch.image_rows[2].features.data, &storage[0]);
  EXPECT_EQ(batch.image_rows[2].row, 3);
  EXPECT_EQ(batch.image_rows[3].features.data, &storage[1]);
}

TEST(BatchBuilder, refuses_a_plan_that_breaks_an_invariant) {
  Sequence sequence = make_sequence(0, {1, 2, 3}, {0});
  const auto build = [&](ChunkWork chunk) {
    const std::vector<ChunkWork> chunks = {chunk};
    return build_batch(chunks, 4, kVocab, no_features);
  };
  EXPECT_NO_THROW(build({&sequence, 0, 4, true}));
  EXPECT_THROW(build({&sequence, 1, 3, true}), InvariantError) << "skips a token";
  EXPECT_THROW(build({&sequence, 0, 5, true}), InvariantError) << "past the sequence";
  EXPECT_THROW(build({&sequence, 0, 3, true}), InvariantError) << "samples too early";
  EXPECT_THROW(build({&sequence, 0, 0, false}), InvariantError) << "empty";
  sequence.layout.ids[2] = kVocab;
  EXPECT_THROW(build({&sequence, 0, 4, true}), InvariantError) << "unknown id";
  sequence.layout.ids[2] = 2;
  sequence.block_table.clear();
  EXPECT_THROW(build({&sequence, 0, 4, true}), InvariantError) << "no blocks";
}

TEST(BatchBuilder, feeds_the_row_of_the_newest_draw_where_the_id_is_not_known) {
  Sequence first = make_sequence(0, {42}, {3});
  first.output_ids = {50};
  first.drawn_row = 4;
  first.num_computed = 3;
  Sequence again = make_sequence(0, {43}, {5, 6});  // computed anew, its newest token unknown
  again.output_ids = {51, 52};
  again.drawn_row = 0;
  const std::vector<ChunkWork> chunks = {{&first, 3, 1, true}, {&again, 0, 5, true}};
  const Batch batch = build_batch(chunks, 4, kVocab, no_features);
  EXPECT_THAT(batch.token_ids, ElementsAre(drawn_token(4), kBos, 43, 51, 52, drawn_token(0)));
  EXPECT_THAT(batch.positions, ElementsAre(3, 0, 1, 2, 3, 4));
}

TEST(BatchBuilder, pads_a_decode_step_with_rows_that_keep_to_the_spare_block) {
  Sequence first = make_sequence(0, {42}, {3});
  first.output_ids = {50};
  first.num_computed = 2;
  Sequence second = make_sequence(0, {43, 44}, {5});
  second.output_ids = {51};
  second.num_computed = 3;
  const std::vector<ChunkWork> chunks = {{&first, 2, 1, true}, {&second, 3, 1, true}};
  Batch batch = build_batch(chunks, 4, kVocab, no_features);
  ASSERT_TRUE(batch.decodes());
  pad_batch(4, 9, 4, &batch);
  EXPECT_TRUE(batch.decodes());
  EXPECT_THAT(batch.token_ids, ElementsAre(50, 51, 0, 0));
  EXPECT_THAT(batch.positions, ElementsAre(2, 3, 0, 0));
  EXPECT_THAT(batch.slots, ElementsAre(14, 23, 36, kNoSlot));
  EXPECT_THAT(batch.block_tables, ElementsAre(3, 5, 9));
  EXPECT_THAT(flatten(batch.runs), ElementsAre(0, 1, 2, 0, 1, 1, 3, 1, 2, 1, 0, 2, 3, 1, 0, 2));
  EXPECT_THAT(batch.logit_rows, ElementsAre(0, 1, 2, 3));
  pad_batch(3, 9, 4, &batch);
  EXPECT_EQ(batch.rows(), 4);
}

TEST(BatchBuilder, a_step_decodes_only_if_each_row_is_a_newest_token_by_itself) {
  Sequence decoding = make_sequence(0, {42}, {3});
  decoding.output_ids = {50};
  decoding.num_computed = 2;
  Sequence prompt = make_sequence(0, {43, 44, 45}, {5});
  const auto decodes = [](const std::vector<ChunkWork>& chunks) {
    return build_batch(chunks, 4, kVocab, no_features).decodes();
  };
  EXPECT_TRUE(decodes({{&decoding, 2, 1, true}}));
  EXPECT_FALSE(decodes({{&decoding, 2, 1, true}, {&prompt, 0, 4, true}}));
  EXPECT_FALSE(decodes({{&decoding, 2, 1, true}, {&prompt, 0, 1, false}}));
}

}  // namespace
}  // namespace cogserve
