// What one caller may hold of the blocks while others wait.
#include <gtest/gtest.h>

#include "tests/engine/scheduler_fixture.hpp"

namespace cogserve {
namespace {

// Sixteen blocks of four tokens. A request takes four of them, and does not grow.
class SchedulerShareTest : public SchedulerTest {
 protected:
  static constexpr uint64_t kFlood = 1;
  static constexpr uint64_t kOther = 2;

  SchedulerShareTest() {
    config.num_blocks = 16;
    config.max_num_batched_tokens = 64;
  }

  Asked ask_of(uint64_t caller, int max_tokens = 4) {
    return ask({.text = 12, .max_tokens = max_tokens, .caller = caller});
  }

  // Six of one caller take all blocks, and then two of another come. The first two end, and this
  // is the step after.
  std::string step_after_two_of(uint64_t flood, uint64_t other) {
    for (int i = 0; i < 6; ++i) ask_of(flood, i < 2 ? 2 : 4);
    EXPECT_EQ(step(), "1:0+13s 2:0+13s 3:0+13s 4:0+13s") << "alone it may have everything";
    EXPECT_EQ(free_blocks(), 0);
    ask_of(other);
    ask_of(other);
    EXPECT_EQ(step(), "1:13+1s 2:13+1s 3:13+1s 4:13+1s");
    return step();
  }
};

TEST_F(SchedulerShareTest, a_caller_who_holds_half_lets_another_start_first) {
  EXPECT_EQ(step_after_two_of(kFlood, kOther), "3:14+1s 4:14+1s 7:0+13s 8:0+13s");
  EXPECT_EQ(step(), "3:15+1s 4:15+1s 7:13+1s 8:13+1s");
  EXPECT_EQ(step(), "7:14+1s 8:14+1s 5:0+13s 6:0+13s") << "what was passed is not lost";
  steps(4);
  expect_at_rest();
}

TEST_F(SchedulerShareTest, one_caller_is_served_in_order) {
  EXPECT_EQ(step_after_two_of(kFlood, kFlood), "3:14+1s 4:14+1s 5:0+13s 6:0+13s");
}

TEST_F(SchedulerShareTest, nobodys_requests_have_no_share) {
  EXPECT_EQ(step_after_two_of(0, kOther), "3:14+1s 4:14+1s 5:0+13s 6:0+13s");
}

TEST_F(SchedulerShareTest, blocks_that_nobody_else_can_use_yet_are_not_left_free) {
  for (int i = 0; i < 2; ++i) ask({.image = 4, .caller = kOther});  // both need the tower first
  for (int i = 0; i < 4; ++i) ask_of(kFlood);
  EXPECT_EQ(step(), "v1[0,1) 3:0+13s 4:0+13s 5:0+13s 6:0+13s");
}

// Else a flood of small ones would keep every large one out.
TEST_F(SchedulerShareTest, blocks_that_another_waits_for_are_left_free_until_they_suffice) {
  for (int i = 0; i < 2; ++i) ask_of(kFlood);
  ask_of(3, 1);
  ask_of(kFlood);
  ask({.text = 19, .caller = kOther});  // five blocks
  EXPECT_EQ(step(), "1:0+13s 2:0+13s 3:0+13s");
  EXPECT_EQ(step(), "1:13+1s 2:13+1s 5:0+20s");
}

TEST_F(SchedulerShareTest, a_callers_own_requests_stay_in_order_when_others_pass) {
  ask_of(kFlood);
  ask({.text = 19, .caller = kFlood});  // one block too many
  ask({.text = 3, .caller = kFlood});
  ask_of(kOther);
  EXPECT_EQ(step(), "1:0+13s 4:0+13s 2:0+20s 3:0+4s");
}

TEST_F(SchedulerShareTest, of_two_who_would_hold_too_much_the_older_goes_first) {
  ask_of(kFlood);
  ask_of(kOther);
  ask({.text = 19, .caller = kFlood});  // one block too many
  ask({.text = 19, .caller = kOther});
  EXPECT_EQ(step(), "1:0+13s 2:0+13s 3:0+20s");
}

TEST_F(SchedulerShareTest, one_larger_than_a_share_starts_in_turn_when_its_caller_holds_nothing) {
  for (int i = 0; i < 2; ++i) ask({.text = 35, .caller = kFlood});  // nine blocks, ten at its end
  ask_of(kOther, 2);
  EXPECT_EQ(step(), "1:0+36s 3:0+13s");
  ask_of(kOther);
  step();
  EXPECT_EQ(step(), "1:37+1s 4:0+13s") << "the second one is passed";
  step();
  ask_of(kOther);
  EXPECT_EQ(step(), "4:14+1s 2:0+36s") << "and is before the youngest now";
}

TEST_F(SchedulerShareTest, a_preempted_one_comes_back_in_turn_whatever_its_caller_holds) {
  const Asked lagging = ask({.text = 12, .max_tokens = 4, .capacity = 1, .caller = kFlood});
  for (const int max_tokens : {2, 4, 4}) ask_of(kFlood, max_tokens);
  step();
  ask_of(kOther);
  EXPECT_EQ(step(), "2:13+1s 3:13+1s 4:13+1s 5:0+13s");
  EXPECT_EQ(lagging.sequence->preemptions, 1);
  drain(lagging);
  ask_of(kOther);
  EXPECT_EQ(step(), "3:14+1s 4:14+1s 5:13+1s 1:0+14s");
}

}  // namespace
}  // namespace cogserve
