// What a step is made of: order, budget, blocks, pictures, preemption.
#include "engine/schedule/scheduler.hpp"

#include <gtest/gtest.h>

#include <utility>

#include "engine/base/check.hpp"
#include "tests/engine/scheduler_fixture.hpp"

namespace cogserve {
namespace {

// --- chunks and rows -----------------------------------------------------------------------------

TEST_F(SchedulerTest, a_prompt_is_computed_in_chunks_and_samples_only_at_its_newest_token) {
  config.max_num_batched_tokens = 4;
  const Asked a = ask({.text = 9, .max_tokens = 3});
  EXPECT_EQ(step(), "1:0+4");
  EXPECT_EQ(step(), "1:4+4");
  EXPECT_EQ(drain(a).has_value(), false);
  EXPECT_EQ(step(), "1:8+2s");
  EXPECT_EQ(step(), "1:10+1s");
  EXPECT_EQ(step(), "1:11+1s");
  EXPECT_EQ(step(), "");
  EXPECT_EQ(end_reason(a), "ok");
  expect_at_rest();
}

TEST_F(SchedulerTest, decode_rows_come_first_and_then_prefill_oldest_first) {
  config.max_num_batched_tokens = 8;
  ask({.text = 3});
  ask({.text = 1});
  EXPECT_EQ(step(), "1:0+4s 2:0+2s");
  ask({.text = 5});
  ask({.text = 5});
  EXPECT_EQ(step(), "1:4+1s 2:2+1s 3:0+6s");
  EXPECT_EQ(step(), "1:5+1s 2:3+1s 3:6+1s 4:0+5");
  EXPECT_EQ(step(), "1:6+1s 2:4+1s 3:7+1s 4:5+1s");
}

TEST_F(SchedulerTest, a_newcomer_waits_while_decoding_fills_the_step) {
  config.max_num_batched_tokens = 2;
  ask({.text = 0, .max_tokens = 3});
  ask({.text = 0, .max_tokens = 2});
  EXPECT_EQ(step(), "1:0+1s 2:0+1s");
  ask({.text = 1});
  EXPECT_EQ(step(), "1:1+1s 2:1+1s");
  EXPECT_EQ(step(), "1:2+1s 3:0+1");
}

// Two younger sequences pass a picture; one of them pauses, so that the picture's prefill begins,
// and comes back, so that decoding alone would fill the steps.
TEST_F(SchedulerTest, the_oldest_prefills_in_every_step_though_younger_ones_could_fill_it) {
  config.max_num_batched_tokens = 2;
  ask({.text = 0, .image = 5, .max_tokens = 3});
  const Asked pauses = ask({.text = 0, .max_tokens = 50, .capacity = 8});
  ask({.text = 0, .max_tokens = 50});
  EXPECT_EQ(step(), "v1[0,1) 2:0+1s 3:0+1s");
  steps(7);
  EXPECT_EQ(step(), "3:8+1s 1:0+1");
  drain(pauses);
  EXPECT_EQ(step(), "2:8+1s 1:1+1");
  EXPECT_EQ(step(), "2:9+1s 1:2+1");
}

TEST_F(SchedulerTest, the_newest_sequences_wait_when_there_are_more_than_rows) {
  config.max_num_batched_tokens = 2;
  for (int i = 0; i < 3; ++i) ask({.text = 0, .max_tokens = 2});
  EXPECT_EQ(step(), "1:0+1s 2:0+1s");
  EXPECT_EQ(step(), "1:1+1s 2:1+1s");
  EXPECT_EQ(step(), "3:0+1s");
}

TEST_F(SchedulerTest, no_more_sequences_run_than_there_are_seats) {
  config.max_num_seqs = 2;
  for (int i = 0; i < 3; ++i) ask({.text = 0, .max_tokens = 2});
  EXPECT_EQ(step(), "1:0+1s 2:0+1s");
  EXPECT_EQ(step(), "1:1+1s 2:1+1s");
  EXPECT_EQ(step(), "3:0+1s");
}

// --- blocks --------------------------------------------------------------------------------------

TEST_F(SchedulerTest, a_sequence_starts_when_blocks_for_all_its_tokens_are_free) {
  config.num_blocks = 6;
  ask({.text = 11, .max_tokens = 12});  // 3 blocks now, 6 at its end
  ask({.text = 11, .max_tokens = 2});   // 3 blocks, then 4
  EXPECT_EQ(step(), "1:0+12s") << "three blocks are left, but one of them is for the first";
  for (int i = 0; i < 11; ++i) EXPECT_EQ(step(), "1:" + std::to_string(12 + i) + "+1s");
  EXPECT_EQ(step(), "2:0+12s");
}

TEST_F(SchedulerTest, one_block_for_each_running_sequence_stays_free) {
  config.num_blocks = 8;
  ask({.text = 3, .max_tokens = 9});
  ask({.text = 3, .max_tokens = 9});
  ask({.text = 15, .max_tokens = 1});  // 4 blocks; 6 are free, 2 of them spoken for
  ask({.text = 0, .max_tokens = 1});   // behind it
  EXPECT_EQ(step(), "1:0+4s 2:0+4s 3:0+8");
  ask({.text = 0, .max_tokens = 1});
  EXPECT_EQ(free_blocks(), 2);
  EXPECT_EQ(step(), "1:4+1s 2:4+1s 3:8+8s") << "no block for the fourth";
  EXPECT_EQ(step(), "1:5+1s 2:5+1s 4:0+1s 5:0+1s");
}

TEST_F(SchedulerTest, a_sequence_that_cannot_grow_any_more_needs_no_spare_block) {
  config.num_blocks = 2;
  ask({.text = 3, .max_tokens = 1});
  ask({.text = 3, .max_tokens = 1});
  EXPECT_EQ(step(), "1:0+4s 2:0+4s");
}

TEST_F(SchedulerTest, the_youngest_is_preempted_and_computes_all_its_tokens_again) {
  config.num_blocks = 4;
  ask({.text = 3, .max_tokens = 9});  // 1 block, at its end 3
  const Asked b = ask({.text = 3, .max_tokens = 9});
  EXPECT_EQ(step(), "1:0+4s 2:0+4s");
  for (int i = 4; i < 8; ++i) {
    const std::string at = std::to_string(i);
    EXPECT_EQ(step(), "1:" + at + "+1s 2:" + at + "+1s");
  }
  EXPECT_EQ(free_blocks(), 0);
  EXPECT_EQ(step(), "1:8+1s") << "two blocks became free, but 2 + 1 are needed";
  EXPECT_EQ(b.sequence->state, SequenceState::kWaiting);
  EXPECT_EQ(b.sequence->num_computed, 0);
  EXPECT_EQ(b.sequence->preemptions, 1);
  EXPECT_EQ(b.sequence->output_ids.size(), 5u) << "tokens are the truth, the cache is a copy";
  steps(3);
  EXPECT_EQ(step(), "2:0+9s") << "prompt and output alike";
  EXPECT_EQ(step(), "2:9+1s");
  steps(2);
  std::vector<int32_t> ids;
  const auto end = drain(b, &ids);
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(ids.size(), 9u) << "recomputing delivers nothing twice";
  EXPECT_EQ(end->preemptions, 1);
  expect_at_rest();
}

TEST_F(SchedulerTest, a_preempted_sequence_keeps_its_place_before_younger_ones) {
  config.num_blocks = 4;
  ask({.text = 3, .max_tokens = 9});
  ask({.text = 3, .max_tokens = 9});
  steps(5);
  ask({.text = 0, .max_tokens = 1});
  EXPECT_EQ(step(), "1:8+1s");
  steps(3);
  EXPECT_EQ(step(), "2:0+9s 3:0+1s");
}

TEST_F(SchedulerTest, a_preempted_image_is_not_encoded_again) {
  config.num_blocks = 6;
  ask({.text = 3, .max_tokens = 21});
  const Asked b = ask({.text = 0, .image = 3, .max_tokens = 9});
  step_while([&] { return b.sequence->state != SequenceState::kRunning; });
  step_while([&] { return b.sequence->preemptions == 0; });
  EXPECT_TRUE(b.sequence->features_ready);
  std::string plans;
  step_while([&] { return b.sequence->state != SequenceState::kRunning; }, &plans);
  EXPECT_EQ(plans.find('v'), std::string::npos) << plans;
  EXPECT_GT(b.sequence->num_computed, 0);
}

TEST_F(SchedulerTest, a_lagging_readers_sequence_is_preempted_before_the_youngest) {
  config.num_blocks = 5;
  const Asked lagging = ask({.text = 3, .max_tokens = 9, .capacity = 2});
  const Asked other = ask({.text = 3, .max_tokens = 9});
  const Asked young = ask({.text = 3, .max_tokens = 5});
  step_while([&] { return scheduler().stats().preemptions == 0; });
  EXPECT_EQ(lagging.sequence->preemptions, 1);
  EXPECT_EQ(other.sequence->preemptions, 0);
  EXPECT_EQ(young.sequence->preemptions, 0);
  EXPECT_TRUE(lagging.sequence->paused);
}

TEST_F(SchedulerTest, a_lagging_readers_seat_goes_to_a_newcomer) {
  config.max_num_seqs = 1;
  const Asked lagging = ask({.text = 3, .max_tokens = 9, .capacity = 1});
  step();
  ask({.text = 0, .max_tokens = 2});
  EXPECT_EQ(step(), "2:0+1s");
  EXPECT_EQ(step(), "2:1+1s");
  EXPECT_EQ(step(), "") << "its reader still lags";
  drain(lagging);
  EXPECT_EQ(step(), "1:0+5s");
}

TEST_F(SchedulerTest, a_lagging_readers_sequence_keeps_its_blocks_while_nobody_needs_them) {
  const Asked lagging = ask({.text = 3, .max_tokens = 9, .capacity = 1});
  step();
  ask({.text = 0, .max_tokens = 2});
  EXPECT_EQ(step(), "2:0+1s");
  EXPECT_EQ(lagging.sequence->preemptions, 0);
  drain(lagging);
  EXPECT_EQ(step(), "1:4+1s 2:1+1s");
}

TEST_F(SchedulerTest, after_three_preemptions_all_blocks_it_can_ever_need_are_its_own) {
  config.max_num_seqs = 1;
  const Asked a = ask({.text = 3, .max_tokens = 21, .capacity = 1});  // 6 blocks at its end
  step();
  for (int i = 1; i <= Scheduler::kMaxPreemptions; ++i) {
    const Asked newcomer = ask({.text = 0, .max_tokens = 1});
    step();
    EXPECT_EQ(end_reason(newcomer), "ok");
    EXPECT_EQ(a.sequence->preemptions, i);
    drain(a);
    step();
    EXPECT_EQ(a.sequence->state, SequenceState::kRunning);
    EXPECT_EQ(a.sequence->block_table.size(), i < Scheduler::kMaxPreemptions ? 2u : 6u);
  }
  ask({.text = 0, .max_tokens = 1});
  EXPECT_EQ(step(), "") << "never again, though its reader lags and somebody waits";
  EXPECT_EQ(a.sequence->preemptions, Scheduler::kMaxPreemptions);
}

// What cannot be taken back is not given while an older sequence may still need it.
TEST_F(SchedulerTest, after_three_preemptions_it_waits_until_the_older_ones_can_do_without) {
  config.max_num_seqs = 2;
  config.num_blocks = 11;
  const Asked old = ask({.text = 3, .max_tokens = 21});  // 6 blocks at its end, as the next one
  const Asked often = ask({.text = 3, .max_tokens = 21, .capacity = 1});
  step();
  preempt_until_pinned(often);
  EXPECT_EQ(often.sequence->state, SequenceState::kWaiting);
  EXPECT_GE(free_blocks(), 7) << "its own six and one for the older would be there";
  step_while([&] { return end_reason(old) != "ok"; });
  step();
  EXPECT_EQ(often.sequence->state, SequenceState::kRunning);
  EXPECT_EQ(often.sequence->block_table.size(), 6u);
}

TEST_F(SchedulerTest, a_crunch_that_is_over_reserves_nothing) {
  config.num_blocks = 24;
  for (int i = 0; i < 2; ++i) ask({.text = 3, .max_tokens = 48});  // 13 blocks each at their ends
  step_while([&] { return !scheduler().idle(); });
  ASSERT_EQ(scheduler().stats().preemptions, 1u);
  // All blocks but one, which is all that the other needs soon, though not all that it may need.
  const auto start_together = [&] {
    const Asked grows = ask({.text = 3, .max_tokens = 92});
    const Asked fits = ask({.text = 87, .max_tokens = 1});
    step();
    const bool together = fits.sequence->state == SequenceState::kRunning;
    grows.stream->cancel();
    fits.stream->cancel();
    step();
    return together;
  };
  EXPECT_FALSE(start_together());
  for (int i = 0; i < 100; ++i) {
    ask({.text = 0, .max_tokens = 1});
    step();
  }
  EXPECT_TRUE(start_together());
}

// --- pictures ------------------------------------------------------------------------------------

TEST_F(SchedulerTest, an_image_runs_through_the_tower_in_slices_and_then_prefills) {
  const Asked a = ask({.text = 1, .image = 4, .max_tokens = 2, .pixels = 12});
  EXPECT_EQ(step(), "v1[0,4)") << "a longer slice while nobody else runs";
  EXPECT_EQ(a.sequence->state, SequenceState::kEncoding);
  EXPECT_EQ(step(), "v1[4,6]");
  EXPECT_TRUE(a.sequence->features_ready);
  EXPECT_TRUE(a.sequence->request.pixels.empty()) << "megabytes that nobody reads again";
  EXPECT_EQ(step(), "1:0+6s");
  EXPECT_EQ(step(), "1:6+1s");
  expect_at_rest();
}

TEST_F(SchedulerTest, decoding_goes_on_beside_the_tower) {
  ask({.text = 0, .max_tokens = 3});
  step();
  ask({.text = 1, .image = 4});
  EXPECT_EQ(step(), "v2[0,1) 1:1+1s");
  EXPECT_EQ(step(), "v2[1,2) 1:2+1s");
  EXPECT_EQ(step(), "v2[2,6]");
}

TEST_F(SchedulerTest, one_picture_is_in_the_tower_and_the_next_follows_at_once) {
  ask({.image = 4});
  ask({.image = 4});
  EXPECT_EQ(step(), "v1[0,4)");
  EXPECT_EQ(step(), "v1[4,6]");
  EXPECT_EQ(step(), "v2[0,1) 1:0+8s");
}

TEST_F(SchedulerTest, text_passes_a_waiting_picture_but_only_so_often) {
  config.vision_layers = 10000;
  config.max_num_batched_tokens = 4;
  ask({.image = 4});  // in the tower, for long
  const Asked waits = ask({.image = 4});
  for (int i = 0; i < Scheduler::kMaxOvertakes; ++i) {
    ask({.text = 0, .max_tokens = 1});
    EXPECT_NE(step().find(std::to_string(3 + i) + ":0+1s"), std::string::npos);
  }
  const Asked late = ask({.text = 0, .max_tokens = 1});
  step();
  EXPECT_EQ(late.sequence->state, SequenceState::kWaiting);
  step_while([&] { return waits.sequence->state == SequenceState::kWaiting; });
  EXPECT_EQ(waits.sequence->state, SequenceState::kEncoding);
  steps(3);  // the first picture's prefill takes two of them
  EXPECT_EQ(end_reason(late), "ok");
}

TEST_F(SchedulerTest, text_that_starts_in_one_step_passes_a_waiting_picture_no_more_often) {
  config.vision_layers = 10000;
  config.max_num_seqs = 2 * Scheduler::kMaxOvertakes;
  config.max_num_batched_tokens = 2 * Scheduler::kMaxOvertakes;
  ask({.image = 4});  // in the tower, for long
  ask({.image = 4});
  for (int i = 0; i < Scheduler::kMaxOvertakes + 10; ++i) ask({.text = 0, .max_tokens = 1});
  step();
  EXPECT_EQ(plan_.chunks.size(), Scheduler::kMaxOvertakes);
}

// Else texts would wait behind a long line of pictures until the tower has seen them all.
TEST_F(SchedulerTest, each_time_the_tower_takes_a_picture_as_many_texts_may_pass_the_next) {
  config.vision_layers = 100;
  config.num_blocks = 1000;
  config.max_num_seqs = 2 * Scheduler::kMaxOvertakes;
  config.max_num_batched_tokens = 2 * Scheduler::kMaxOvertakes;
  for (int i = 0; i < 5; ++i) ask({.image = 4, .max_tokens = 1});
  for (int i = 0; i < 2 * Scheduler::kMaxOvertakes + 10; ++i) ask({.text = 0, .max_tokens = 1});
  for (const size_t texts : {64, 64, 10}) {
    step();
    size_t started = 0;
    for (const ChunkWork& chunk : plan_.chunks) started += !chunk.sequence->has_image();
    EXPECT_EQ(started, texts);
    step_while([&] { return !plan_.vision.front().last; });
  }
}

TEST_F(SchedulerTest, pictures_that_wait_for_a_place_hold_up_no_text) {
  config.max_pictures = 1;
  ask({.image = 4, .max_tokens = 100});
  steps(4);
  ask({.image = 4});
  for (int i = 0; i < Scheduler::kMaxOvertakes + 10; ++i) {
    ask({.text = 0, .max_tokens = 1});
    EXPECT_NE(step().find(std::to_string(3 + i) + ":0+1s"), std::string::npos);
  }
}

TEST_F(SchedulerTest, an_encoded_picture_is_not_passed_by_younger_text) {
  config.max_num_seqs = 1;
  ask({.text = 0, .max_tokens = 12});
  step();
  ask({.text = 0, .image = 3, .max_tokens = 1});
  ask({.text = 0, .max_tokens = 1});
  steps(11);
  EXPECT_EQ(step(), "2:0+4s");
  EXPECT_EQ(step(), "3:0+1s");
}

TEST_F(SchedulerTest, no_more_pictures_are_kept_than_there_are_places) {
  config.max_num_seqs = 2;
  config.max_pictures = 2;
  ask({.text = 0, .max_tokens = 40});
  ask({.text = 0, .max_tokens = 100});
  Asked pictures[3];
  for (Asked& picture : pictures) picture = ask({.text = 0, .image = 3, .max_tokens = 1});
  steps(30);
  EXPECT_TRUE(pictures[0].sequence->features_ready);
  EXPECT_TRUE(pictures[1].sequence->features_ready);
  EXPECT_TRUE(pictures[2].sequence->needs_tower()) << "there is no place for it";
  step_while([&] { return pictures[2].sequence->state != SequenceState::kEncoding; });
  EXPECT_EQ(end_reason(pictures[0]), "ok");
}

// Text 1 decodes in steps of 4 ms, and between its tokens 10 are wanted.
class SchedulerPaceTest : public SchedulerTest {
 protected:
  SchedulerPaceTest() {
    config.max_itl = Ms(10);
    config.vision_layers = 100;
    ask({.text = 0, .max_tokens = 150});
    steps(2);
  }

  std::string slice_in_a_step_of(int ms) {
    const std::string text = plan();
    now += Ms(ms);
    commit();
    return text.substr(0, text.find(' '));
  }

  void decode_in_turn() {
    for (int i = 0; i < 50; ++i) slice_in_a_step_of(4);
  }

  // Each step is planned when the one before it has just begun.
  void decode_ahead() {
    Plan flying;
    for (int i = 0; i < 50; ++i) {
      plan();
      Plan next = std::exchange(plan_, std::move(flying));
      now += Ms(4);
      if (!plan_.empty()) commit();
      scheduler().advance(&next);
      flying = std::move(next);
    }
    plan_ = std::move(flying);
    now += Ms(4);
    commit();
  }

  void expect_slices_that_fit() {
    ask({.text = 1, .image = 4});
    EXPECT_EQ(slice_in_a_step_of(5), "v2[0,1)");  // a layer takes 1 ms
    EXPECT_EQ(slice_in_a_step_of(9), "v2[1,6)");
    EXPECT_EQ(slice_in_a_step_of(9), "v2[6,11)");
  }
};

TEST_F(SchedulerPaceTest, slices_of_the_tower_fit_the_target_between_tokens) {
  decode_in_turn();
  expect_slices_that_fit();
}

TEST_F(SchedulerPaceTest, a_step_that_is_planned_ahead_takes_no_longer) {
  decode_ahead();
  expect_slices_that_fit();
}

TEST_F(SchedulerPaceTest, an_hour_without_a_step_is_no_step) {
  decode_in_turn();
  expect_slices_that_fit();
  now += std::chrono::hours(1);
  EXPECT_EQ(slice_in_a_step_of(9), "v2[11,16)");
  EXPECT_EQ(slice_in_a_step_of(9), "v2[16,21)");
}

// The rest of a plan that broke is committed last, and by itself.
TEST_F(SchedulerPaceTest, a_part_of_a_plan_is_no_step) {
  decode_in_turn();
  expect_slices_that_fit();
  now += std::chrono::hours(1);
  EXPECT_EQ(plan(), "v2[11,16) 1:55+1s");
  const std::vector<Plan> parts = split(plan_);
  ASSERT_EQ(parts.size(), 2u);
  scheduler().fail(parts[0], absl::InternalError("fault"), now);
  scheduler().commit(parts[1], {}, now);
  EXPECT_EQ(plan(), "v2[16,36)") << "four slices, for nobody waits any more";
}

// --- misuse --------------------------------------------------------------------------------------

TEST_F(SchedulerTest, a_plan_is_committed_once_before_the_next) {
  ask({});
  plan();
  EXPECT_THROW(plan(), InvariantError);
  commit();
  EXPECT_THROW(commit(), InvariantError);
  EXPECT_NE(plan(), "");
}

TEST_F(SchedulerTest, each_sampling_chunk_gets_one_token) {
  ask({});
  Plan plan = scheduler().schedule(now);
  EXPECT_THROW(scheduler().commit(plan, {}, now), InvariantError);
  // The engine's way out: the plan fails, and everything is free.
  scheduler().fail(plan, absl::InternalError("fault"), now);
  expect_at_rest();
}

TEST_F(SchedulerTest, ids_must_ascend) {
  auto old = std::make_unique<Sequence>();
  old->layout = make_token_layout(1, 2, 0, std::vector<int32_t>{5});
  old->stream = std::make_shared<TokenStream>(1);
  ask({});
  old->id = 1;
  EXPECT_THROW(scheduler().add(std::move(old), now).IgnoreError(), InvariantError);
}

}  // namespace
}  // namespace cogserve
