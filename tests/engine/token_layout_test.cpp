#include "engine/schedule/token_layout.hpp"

#include <gtest/gtest.h>

#include "engine/base/check.hpp"

namespace cogserve {
namespace {

using Ids = std::vector<int32_t>;
using Flags = std::vector<uint8_t>;

constexpr int32_t kBos = 100;
constexpr int32_t kImage = 102;

TEST(TokenLayout, text_counts_up_and_uses_the_language_expert) {
  const TokenLayout layout = make_token_layout(kBos, kImage, 0, Ids{5, 6, 7});
  EXPECT_EQ(layout.ids, (Ids{kBos, 5, 6, 7}));
  EXPECT_EQ(layout.positions, (Ids{0, 1, 2, 3}));
  EXPECT_EQ(layout.vision, (Flags{0, 0, 0, 0}));
  EXPECT_EQ(layout.image_tokens, 0);
  for (int i = 0; i < layout.size(); ++i) EXPECT_FALSE(layout.is_image(i));
}

// boi, four patches, eoi.
TEST(TokenLayout, an_image_spends_three_positions) {
  const TokenLayout layout = make_token_layout(kBos, kImage, 6, Ids{5, 6});
  EXPECT_EQ(layout.ids, (Ids{kBos, kImage, kImage, kImage, kImage, kImage, kImage, 5, 6}));
  EXPECT_EQ(layout.positions, (Ids{0, 1, 2, 2, 2, 2, 3, 4, 5}));
}

TEST(TokenLayout, eoi_uses_the_language_expert_and_boi_the_vision_expert) {
  const TokenLayout layout = make_token_layout(kBos, kImage, 6, Ids{5, 6});
  EXPECT_EQ(layout.vision, (Flags{0, 1, 1, 1, 1, 1, 0, 0, 0}));
  EXPECT_FALSE(layout.is_image(0));
  for (int i = 1; i <= 6; ++i) EXPECT_TRUE(layout.is_image(i)) << i;
  EXPECT_FALSE(layout.is_image(7));
}

TEST(TokenLayout, the_smallest_image_has_one_patch) {
  const TokenLayout layout = make_token_layout(kBos, kImage, 3, Ids{5});
  EXPECT_EQ(layout.positions, (Ids{0, 1, 2, 3, 4}));
  EXPECT_EQ(layout.vision, (Flags{0, 1, 1, 0, 0}));
}

TEST(TokenLayout, an_image_without_text_ends_in_eoi) {
  const TokenLayout layout = make_token_layout(kBos, kImage, 4, Ids{});
  EXPECT_EQ(layout.positions, (Ids{0, 1, 2, 2, 3}));
  EXPECT_EQ(layout.vision, (Flags{0, 1, 1, 1, 0}));
}

TEST(TokenLayout, bos_may_stand_alone) {
  const TokenLayout layout = make_token_layout(kBos, kImage, 0, Ids{});
  EXPECT_EQ(layout.ids, (Ids{kBos}));
  EXPECT_EQ(layout.positions, (Ids{0}));
  EXPECT_EQ(layout.vision, (Flags{0}));
}

TEST(TokenLayout, decoding_goes_on_from_the_last_position_not_from_the_length) {
  const TokenLayout layout = make_token_layout(kBos, kImage, 2306, Ids{5, 6});
  EXPECT_EQ(layout.size(), 2309);
  EXPECT_EQ(layout.positions.back(), 5);
  EXPECT_EQ(layout.generated_position(0), 6);
  EXPECT_EQ(layout.generated_position(9), 15);
}

// A text token with the image's id is text: the image is where it stands, not what its id is.
TEST(TokenLayout, the_image_id_in_text_is_text) {
  const TokenLayout layout = make_token_layout(kBos, kImage, 0, Ids{kImage, kImage, kImage});
  EXPECT_EQ(layout.positions, (Ids{0, 1, 2, 3}));
  EXPECT_EQ(layout.vision, (Flags{0, 0, 0, 0}));
}

TEST(TokenLayout, an_image_of_one_or_two_tokens_is_a_broken_invariant) {
  for (const int tokens : {-1, 1, 2}) {
    EXPECT_THROW(make_token_layout(kBos, kImage, tokens, Ids{}), InvariantError) << tokens;
  }
}

}  // namespace
}  // namespace cogserve
