// What one caller may have while others wait: of the blocks, and of the vision tower's time.
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

// --- turns at the tower --------------------------------------------------------------------------

class SchedulerTurnTest : public SchedulerShareTest {
 protected:
  SchedulerTurnTest() {
    config.num_blocks = 1000;
    config.vision_layers = 1;  // a picture is encoded in the step in which it comes into the tower
    config.max_num_seqs = 100;
  }

  Asked ask_picture(uint64_t caller) {
    return ask({.image = 4, .max_tokens = 1, .caller = caller});
  }

  // Whose pictures are encoded in the next steps.
  std::string encoded(int count) {
    std::string ids;
    for (int i = 0; i < count; ++i) {
      step();
      ids += " " + std::to_string(plan_.vision.at(0).sequence->id);
    }
    return ids;
  }
};

TEST_F(SchedulerTurnTest, a_flood_of_pictures_costs_another_caller_one_turn) {
  for (int i = 0; i < 40; ++i) ask_picture(kFlood);
  EXPECT_EQ(encoded(2), " 1 2") << "alone it may have every turn";
  ask_picture(kOther);
  EXPECT_EQ(encoded(3), " 41 3 4");
  for (int i = 0; i < 3; ++i) ask_picture(kOther);
  EXPECT_EQ(encoded(7), " 42 5 43 6 44 7 8");
}

TEST_F(SchedulerTurnTest, whose_turn_is_longest_ago_comes_first_and_before_that_who_had_none) {
  for (const uint64_t caller : {1, 1, 2, 2, 3, 3}) ask_picture(caller);
  EXPECT_EQ(encoded(3), " 1 3 5");
  ask_picture(4);
  EXPECT_EQ(encoded(4), " 7 2 4 6");
}

TEST_F(SchedulerTurnTest, a_server_that_knows_no_callers_takes_pictures_in_order) {
  for (int i = 0; i < 4; ++i) ask_picture(0);
  EXPECT_EQ(encoded(4), " 1 2 3 4");
}

// However many callers come who had no turn yet.
TEST_F(SchedulerTurnTest, one_waits_for_no_more_turns_than_are_remembered) {
  ask_picture(1);
  const Asked waits = ask_picture(1);
  uint64_t caller = 2;
  size_t turns = 0;
  for (; waits.sequence->needs_tower(); ++turns) {
    ASSERT_LT(turns, 1000u);
    ask_picture(caller++);
    step();
  }
  EXPECT_EQ(turns, 1 + CallerTurns::kRemembered + 1);
}

// The text that came between them is served between them, whichever picture is first.
TEST_F(SchedulerTurnTest, pictures_that_pass_each_other_change_places_in_the_line) {
  config.max_num_seqs = 1;
  ask({.text = 0, .max_tokens = 4, .caller = 3});
  ask_picture(kFlood);
  ask_picture(kFlood);
  ask({.text = 0, .max_tokens = 1, .caller = 3});
  ask_picture(kOther);
  std::string plans;
  step_while([&] { return !scheduler().idle(); }, &plans);
  EXPECT_EQ(plans,
            "v2[0,1] 1:0+1s\nv5[0,1] 1:1+1s\nv3[0,1] 1:2+1s\n1:3+1s\n"
            "2:0+8s\n5:0+8s\n4:0+1s\n3:0+8s\n");
}

TEST_F(SchedulerTurnTest, a_deadline_is_refused_by_the_turns_before_it_and_not_by_anothers_flood) {
  config.vision_layers = 8;
  for (int i = 0; i < 10; ++i) ask_picture(kFlood);
  step_while([&] { return !scheduler().idle(); });  // and the line's pace is known
  for (int i = 0; i < 30; ++i) ask_picture(kFlood);
  const Asked more = ask({.image = 4, .deadline = now + Ms(20), .caller = kFlood});
  EXPECT_EQ(error_reason(more.refusal), "DEADLINE_UNMEETABLE");
  const Asked other = ask({.image = 4, .deadline = now + Ms(20), .caller = kOther});
  EXPECT_TRUE(other.refusal.ok()) << other.refusal;
}

// --- the queue -----------------------------------------------------------------------------------

TEST_F(SchedulerShareTest, a_flood_leaves_places_in_the_queue) {
  config.max_queue_size = 8;
  for (int i = 0; i < 6; ++i) EXPECT_TRUE(ask_of(kFlood).refusal.ok());
  const absl::Status refused = ask_of(kFlood).refusal;
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(error_reason(refused), "TENANT_QUOTA");
  EXPECT_EQ(error_limit(refused), "6");
  EXPECT_TRUE(error_retry_delay(refused).has_value());
  EXPECT_TRUE(ask_of(kOther).refusal.ok());
  EXPECT_TRUE(ask_of(3).refusal.ok());
  EXPECT_EQ(error_reason(ask_of(4).refusal), "QUEUE_FULL");
  step();
  EXPECT_TRUE(ask_of(kFlood).refusal.ok()) << "what has started is not in the queue";
}

TEST_F(SchedulerShareTest, a_flood_leaves_bytes_in_the_queue) {
  config.max_queue_bytes = 8 * 4200;  // eight pictures of 1000 values, with their ids
  const Ask picture{.image = 4, .pixels = 1000, .caller = kFlood};
  for (int i = 0; i < 6; ++i) EXPECT_TRUE(ask(picture).refusal.ok());
  const absl::Status refused = ask(picture).refusal;
  EXPECT_EQ(error_reason(refused), "TENANT_QUOTA");
  EXPECT_EQ(error_limit(refused), "25200");
  EXPECT_TRUE(ask({.image = 4, .pixels = 1000, .caller = kOther}).refusal.ok());
}

TEST_F(SchedulerShareTest, those_whom_nobody_knows_may_fill_the_queue) {
  config.max_queue_size = 8;
  for (int i = 0; i < 8; ++i) EXPECT_TRUE(ask_of(0).refusal.ok());
  EXPECT_EQ(error_reason(ask_of(0).refusal), "QUEUE_FULL");
}

// --- who had its turn ----------------------------------------------------------------------------

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
