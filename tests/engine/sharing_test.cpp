#include "engine/base/sharing.hpp"

#include <gtest/gtest.h>

namespace cogserve {
namespace {

TEST(CallerTurns, who_had_no_turn_for_longest_has_the_most_others_since) {
  CallerTurns turns;
  EXPECT_EQ(turns.others_since(1), 0u) << "nobody had any";
  for (const uint64_t caller : {1, 2, 3}) turns.take(caller);
  EXPECT_EQ(turns.others_since(3), 0u);
  EXPECT_EQ(turns.others_since(1), 2u);
  EXPECT_EQ(turns.others_since(4), 3u) << "had none";
  turns.take(1);
  EXPECT_EQ(turns.others_since(1), 0u);
  EXPECT_EQ(turns.others_since(2), 2u);
  EXPECT_EQ(turns.others_since(4), 3u) << "a caller counts once";
}

TEST(CallerTurns, what_is_long_ago_is_forgotten) {
  CallerTurns turns;
  turns.take(1);
  for (uint64_t caller = 2; caller < 1 + CallerTurns::kRemembered; ++caller) turns.take(caller);
  EXPECT_EQ(turns.others_since(1), CallerTurns::kRemembered - 1);
  turns.take(1 + CallerTurns::kRemembered);
  EXPECT_EQ(turns.others_since(1), turns.others_since(1000)) << "as if it had none";
}

TEST(FairShare, a_flood_ends_where_a_quarter_is_left_for_others) {
  EXPECT_EQ(fair_share(1, 0, 32), 32) << "who has nothing may have all there is";
  EXPECT_EQ(fair_share(1, 1, 31), 24);
  EXPECT_EQ(fair_share(1, 24, 8), 24);
  EXPECT_EQ(fair_share(2, 1, 7), 6) << "and of that quarter a second one leaves a quarter";
  EXPECT_EQ(fair_share(3, 0, 1), 1);
  EXPECT_EQ(fair_share(3, 1, 0), 0);
}

TEST(FairShare, the_unknown_have_no_bound_of_their_own) { EXPECT_EQ(fair_share(0, 30, 2), 32); }

}  // namespace
}  // namespace cogserve
