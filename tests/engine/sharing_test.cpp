#include "engine/base/sharing.hpp"

#include <gtest/gtest.h>

#include <optional>
#include <vector>

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

TEST(CallerTurns, the_next_is_the_oldest_of_who_waits_for_longest) {
  CallerTurns turns;
  for (const uint64_t caller : {1, 2, 3}) turns.take(caller);
  using Line = std::vector<uint64_t>;  // whose; 0 does not wait
  const auto next = [&turns](const Line& line) {
    return turns.next(line.begin(), line.end(), [](uint64_t caller) {
      return caller == 0 ? std::nullopt : std::optional<uint64_t>(caller);
    }) - line.begin();
  };
  EXPECT_EQ(next({}), 0);
  EXPECT_EQ(next({0, 0}), 2) << "nobody";
  EXPECT_EQ(next({3, 3, 2, 1, 1, 2}), 3);
  EXPECT_EQ(next({0, 1, 0, 5, 4, 5}), 3) << "of two who had none the older";
}

TEST(QueueShare, a_flood_ends_where_a_quarter_is_left_for_others) {
  EXPECT_EQ(queue_share(1, 31), 24);
  EXPECT_EQ(queue_share(24, 8), 24);
  EXPECT_EQ(queue_share(1, 7), 6) << "and of that quarter a second one leaves a quarter";
  EXPECT_EQ(queue_share(1, 0), 0);
  EXPECT_EQ(queue_share(int64_t{512} << 20, 0), int64_t{384} << 20);
}

}  // namespace
}  // namespace cogserve
