// What one caller may have while others wait: of the blocks and seats, of the vision tower's time,
// and of the queue.
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

// What passes a picture is what starts behind it in the line, whenever it came.
TEST_F(SchedulerTurnTest, a_picture_that_went_back_in_the_line_is_not_passed_by_what_is_before_it) {
  config.vision_layers = 100;
  config.max_num_seqs = 1;
  ask({.text = 0, .max_tokens = 150, .caller = 3});
  ask_picture(kFlood);
  const Asked back = ask_picture(kFlood);
  const Asked text = ask({.text = 0, .max_tokens = 1, .caller = 3});
  const Asked other = ask_picture(kOther);
  const Asked last = ask({.text = 0, .max_tokens = 1, .caller = 3});
  step_while([&] { return other.sequence->state == SequenceState::kWaiting; });
  EXPECT_EQ(other.sequence->order, 3u);
  EXPECT_EQ(back.sequence->order, 5u);
  step_while([&] { return text.sequence->state == SequenceState::kWaiting; });
  EXPECT_TRUE(other.sequence->needs_tower()) << "still in the tower";
  EXPECT_EQ(back.sequence->overtaken, 0);
  step();
  EXPECT_EQ(end_reason(last), "ok");
  EXPECT_EQ(back.sequence->overtaken, 1);
  step_while([&] { return other.sequence->needs_tower(); });
  const Asked next = ask_picture(kFlood);
  step();
  EXPECT_EQ(back.sequence->state, SequenceState::kEncoding);
  EXPECT_EQ(next.sequence->overtaken, 0);
}

TEST_F(SchedulerTurnTest, a_picture_is_not_blamed_for_what_passed_one_that_is_gone) {
  config.vision_layers = 10000;
  ask_picture(kFlood);
  const Asked gone = ask_picture(kFlood);
  for (int i = 0; i < Scheduler::kMaxOvertakes; ++i) ask({.text = 0, .max_tokens = 1});
  step();
  EXPECT_EQ(gone.sequence->overtaken, Scheduler::kMaxOvertakes);
  gone.stream->cancel();
  ask_picture(kFlood);
  const Asked text = ask({.text = 0, .max_tokens = 1});
  step();
  EXPECT_EQ(end_reason(text), "ok");
}

// --- what a deadline is refused by ---------------------------------------------------------------

// A picture takes the tower's time for two steps, and the pace of the line is known.
class SchedulerAheadTest : public SchedulerTurnTest {
 protected:
  SchedulerAheadTest() {
    config.vision_layers = 8;
    config.max_num_seqs = 1;
    for (int i = 0; i < 10; ++i) ask_picture(kFlood);
    step_while([&] { return !scheduler().idle(); });
  }

  // How many pictures are said to come before one of `caller`.
  std::string ahead_of_one_of(uint64_t caller) {
    const absl::Status refused =
        ask({.image = 4, .deadline = now + Ms(1), .caller = caller}).refusal;
    EXPECT_EQ(error_reason(refused), "DEADLINE_UNMEETABLE");
    const std::string text(refused.message());
    const size_t at = text.find("about ");
    return at == std::string::npos ? text : text.substr(at + 6, text.find(' ', at + 6) - at - 6);
  }
};

TEST_F(SchedulerAheadTest, ones_own_all_come_before_and_of_others_as_many) {
  for (int i = 0; i < 30; ++i) ask_picture(kFlood);  // had the last turn
  EXPECT_EQ(ahead_of_one_of(kFlood), "30");
  for (int i = 0; i < 3; ++i) ask_picture(kOther);
  EXPECT_EQ(ahead_of_one_of(kFlood), "33") << "all of the other's";
  EXPECT_EQ(ahead_of_one_of(kOther), "6") << "three of the flood's: its turn is after";
  EXPECT_EQ(ahead_of_one_of(3), "1") << "the other had no turn either, and was before";
}

TEST_F(SchedulerAheadTest, pictures_are_not_before_a_text) {
  for (int i = 0; i < 10; ++i) ask({.text = 0, .max_tokens = 1});
  step_while([&] { return !scheduler().idle(); });  // the pace of texts is known, too
  for (int i = 0; i < 30; ++i) ask_picture(kFlood);
  for (int i = 0; i < 5; ++i) ask({.text = 0, .max_tokens = 1});
  const Asked text = ask({.text = 0, .max_tokens = 1, .deadline = now + Clock::duration(1)});
  EXPECT_NE(text.refusal.message().find("about 5 of"), std::string::npos) << text.refusal;
}

TEST_F(SchedulerAheadTest, texts_that_are_held_back_are_not_before_anothers) {
  for (int i = 0; i < 10; ++i) ask({.text = 0, .max_tokens = 1});
  step_while([&] { return !scheduler().idle(); });
  const auto text_of = [this](uint64_t caller, Clock::duration deadline) {
    return ask({.text = 0, .max_tokens = 100, .deadline = now + deadline, .caller = caller});
  };
  text_of(kFlood, Ms(10000));
  step();
  for (int i = 0; i < 30; ++i) text_of(kFlood, Ms(10000));
  for (int i = 0; i < 2; ++i) text_of(3, Ms(10000));
  const auto ahead_of_one_of = [&](uint64_t caller) {
    return std::string(text_of(caller, Clock::duration(1)).refusal.message());
  };
  EXPECT_NE(ahead_of_one_of(kOther).find("about 2 of"), std::string::npos);
  EXPECT_NE(ahead_of_one_of(3).find("about 2 of"), std::string::npos);
  EXPECT_NE(ahead_of_one_of(kFlood).find("about 32 of"), std::string::npos);
}

TEST_F(SchedulerAheadTest, of_two_who_had_no_turn_the_one_with_the_older_picture_is_first) {
  ask_picture(kFlood);
  step();  // it is in the tower
  ask_picture(kOther);
  for (const uint64_t caller : {3, 3, 4, 4}) ask_picture(caller);
  EXPECT_EQ(ahead_of_one_of(kOther), "3") << "its own, and then one of each";
  EXPECT_EQ(ahead_of_one_of(3), "5") << "its own two, and all of the others'";
}

// A picture is in the tower for three milliseconds, whoever comes in before it; and those that give
// up make the line faster.
TEST_F(SchedulerAheadTest, the_pace_is_that_of_turns) {
  const auto expected_of_ten = [this] {
    for (int i = 0; i < 10; ++i) ask_picture(kFlood);
    const Asked more = ask({.image = 4, .deadline = now + Ms(1), .caller = kFlood});
    step_while([&] { return !scheduler().idle(); });
    return std::stoi(error_got(more.refusal));
  };
  for (int i = 0; i < 5; ++i) expected_of_ten();
  EXPECT_NEAR(expected_of_ten(), 26, 4);
  for (int i = 0; i < 2; ++i) ask_picture(kFlood);
  for (int i = 0; i < 20; ++i) ask_picture(kOther + i);
  step_while([&] { return !scheduler().idle(); });  // the flood's second was the last
  EXPECT_NEAR(expected_of_ten(), 26, 4);
  for (int round = 0; round < 8; ++round) {
    for (int i = 0; i < 30; ++i) ask_picture(kFlood).stream->cancel();
    ask_picture(kFlood);
    step_while([&] { return !scheduler().idle(); });
  }
  EXPECT_LE(expected_of_ten(), 12);
}

TEST_F(SchedulerAheadTest, who_is_next_is_not_refused) {
  for (int i = 0; i < 30; ++i) ask_picture(kFlood);
  EXPECT_TRUE(ask({.image = 4, .deadline = now + Ms(1), .caller = kOther}).refusal.ok());
}

TEST_F(SchedulerAheadTest, encoded_pictures_and_texts_are_not_before_a_picture) {
  ask({.text = 0, .max_tokens = 100});  // has the only seat
  step();
  for (int i = 0; i < 3; ++i) ask_picture(kFlood);
  steps(9);
  EXPECT_EQ(plan_.vision.at(0).sequence->id, 13u) << "the first is encoded, and waits";
  for (int i = 0; i < 5; ++i) ask({.text = 0, .caller = kFlood});
  EXPECT_EQ(ahead_of_one_of(kFlood), "1");
}

// --- seats and the queue -------------------------------------------------------------------------

TEST_F(SchedulerShareTest, a_caller_who_has_half_of_the_seats_lets_another_start_first) {
  config.num_blocks = 1000;
  config.max_num_seqs = 4;
  for (int i = 0; i < 6; ++i) ask_of(kFlood, i < 2 ? 2 : 4);
  EXPECT_EQ(step(), "1:0+13s 2:0+13s 3:0+13s 4:0+13s") << "alone it may have every seat";
  for (int i = 0; i < 2; ++i) ask_of(kOther);
  step();
  EXPECT_EQ(step(), "3:14+1s 4:14+1s 7:0+13s 8:0+13s");
}

TEST_F(SchedulerShareTest, an_encoded_picture_of_a_flood_lets_anothers_pass) {
  config.num_blocks = 1000;
  config.max_num_seqs = 2;
  config.vision_layers = 1;
  for (int i = 0; i < 4; ++i) ask({.image = 4, .max_tokens = 2, .caller = kFlood});
  steps(4);  // two run, and the others are encoded
  ask_of(kOther);
  EXPECT_EQ(step(), "3:8+1s 5:0+13s") << "4 is encoded and waits";
}

TEST_F(SchedulerShareTest, a_flood_leaves_places_in_the_queue) {
  config.max_queue_size = 8;
  for (int i = 0; i < 6; ++i) EXPECT_TRUE(ask_of(kFlood).refusal.ok());
  EXPECT_EQ(error_reason(ask_of(kFlood).refusal), "TENANT_QUOTA");
  EXPECT_TRUE(ask_of(kOther).refusal.ok());
  step();
  EXPECT_TRUE(ask_of(kFlood).refusal.ok()) << "what has started is not in the queue";
}

TEST_F(SchedulerShareTest, a_flood_leaves_bytes_in_the_queue) {
  config.max_queue_bytes = 8 * 4200;  // eight pictures of 1000 values, with their ids
  const Ask picture{.image = 4, .pixels = 1000, .caller = kFlood};
  for (int i = 0; i < 6; ++i) EXPECT_TRUE(ask(picture).refusal.ok());
  EXPECT_EQ(error_reason(ask(picture).refusal), "TENANT_QUOTA");
  EXPECT_TRUE(ask({.image = 4, .pixels = 1000, .caller = kOther}).refusal.ok());
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
