#include "engine/schedule/block_manager.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

#include "engine/base/check.hpp"

namespace cogserve {
namespace {

TEST(BlockManager, hands_out_every_block_once) {
  BlockManager blocks(5);
  std::set<int32_t> seen;
  for (int i = 0; i < 5; ++i) {
    const int32_t block = blocks.allocate();
    EXPECT_EQ(blocks.references(block), 1);
    seen.insert(block);
  }
  EXPECT_EQ(seen, (std::set<int32_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(blocks.num_free(), 0);
}

TEST(BlockManager, an_empty_pool_hands_out_nothing) {
  BlockManager blocks(1);
  blocks.allocate();
  EXPECT_THROW(blocks.allocate(), InvariantError);
  EXPECT_EQ(blocks.num_free(), 0);
}

TEST(BlockManager, a_shared_block_is_free_after_its_last_owner) {
  BlockManager blocks(2);
  const int32_t block = blocks.allocate();
  blocks.share(block);
  blocks.share(block);
  blocks.release(block);
  blocks.release(block);
  EXPECT_EQ(blocks.references(block), 1);
  EXPECT_EQ(blocks.num_free(), 1);
  blocks.release(block);
  EXPECT_EQ(blocks.references(block), 0);
  EXPECT_EQ(blocks.num_free(), 2);
}

TEST(BlockManager, a_free_block_can_be_neither_released_nor_shared) {
  BlockManager blocks(2);
  const int32_t block = blocks.allocate();
  blocks.release(block);
  EXPECT_THROW(blocks.release(block), InvariantError);
  EXPECT_THROW(blocks.share(block), InvariantError);
  EXPECT_EQ(blocks.num_free(), 2);
}

TEST(BlockManager, a_block_outside_the_pool_is_a_broken_invariant) {
  BlockManager blocks(2);
  for (const int32_t block : {-1, 2}) {
    EXPECT_THROW(blocks.release(block), InvariantError);
    EXPECT_THROW(blocks.share(block), InvariantError);
    EXPECT_THROW(blocks.references(block), InvariantError);
  }
}

// Against a plain count per block.
TEST(BlockManager, counts_agree_with_a_plain_model_over_random_operations) {
  constexpr int kBlocks = 17;
  BlockManager blocks(kBlocks);
  std::vector<int> model(kBlocks, 0);
  std::mt19937 rng(1);
  for (int step = 0; step < 100000; ++step) {
    const int32_t block = static_cast<int32_t>(rng() % kBlocks);
    switch (rng() % 3) {
      case 0:
        if (blocks.num_free() > 0) {
          const int32_t got = blocks.allocate();
          ASSERT_EQ(model[got]++, 0);
        }
        break;
      case 1:
        if (model[block] > 0) {
          blocks.share(block);
          ++model[block];
        }
        break;
      case 2:
        if (model[block] > 0) {
          blocks.release(block);
          --model[block];
        }
        break;
    }
    ASSERT_EQ(blocks.num_free(), std::count(model.begin(), model.end(), 0));
    ASSERT_EQ(blocks.references(block), model[block]);
  }
}

}  // namespace
}  // namespace cogserve
