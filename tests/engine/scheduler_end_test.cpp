// How requests are refused and how they end, in every state.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>

#include "engine/base/check.hpp"
#include "tests/engine/scheduler_fixture.hpp"

namespace cogserve {
namespace {

// --- refused -------------------------------------------------------------------------------------

TEST_F(SchedulerTest, a_request_beyond_the_context_is_refused_with_the_numbers) {
  config.max_model_len = 20;
  EXPECT_TRUE(ask({.text = 9, .max_tokens = 10}).refusal.ok());
  const absl::Status status = ask({.text = 9, .max_tokens = 11}).refusal;
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(error_reason(status), "CONTEXT_LENGTH");
  EXPECT_EQ(error_field(status), "max_tokens");
  for (const char* number : {"10", "11", "20"}) {
    EXPECT_NE(std::string(status.message()).find(number), std::string::npos) << status;
  }
  EXPECT_EQ(error_field(ask({.text = 30, .max_tokens = 1}).refusal), "messages");
  EXPECT_EQ(error_reason(ask({.text = 1, .max_tokens = INT32_MAX}).refusal), "CONTEXT_LENGTH");
}

TEST_F(SchedulerTest, a_request_that_can_never_fit_the_cache_is_refused_at_once) {
  config.num_blocks = 4;
  EXPECT_TRUE(ask({.text = 9, .max_tokens = 7}).refusal.ok()) << "16 tokens and one not fed back";
  const auto expect_refused = [&](const Ask& what, const char* field) {
    const absl::Status status = ask(what).refusal;
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(error_reason(status), "KV_NEVER_FITS");
    EXPECT_EQ(error_field(status), field);
    EXPECT_EQ(error_limit(status), "17");
    EXPECT_EQ(error_got(status), "18");
  };
  expect_refused({.text = 9, .max_tokens = 8}, "max_tokens");
  expect_refused({.text = 15, .max_tokens = 2}, "max_tokens");
  expect_refused({.text = 16, .max_tokens = 1}, "messages");
}

TEST_F(SchedulerTest, at_least_one_token_must_be_asked_for) {
  for (const int max_tokens : {0, -1}) {
    const absl::Status status = ask({.max_tokens = max_tokens}).refusal;
    EXPECT_EQ(error_reason(status), "PARAM_RANGE");
    EXPECT_EQ(error_field(status), "max_tokens");
  }
}

TEST_F(SchedulerTest, a_full_queue_refuses_with_a_retry_delay) {
  config.max_queue_size = 2;
  EXPECT_TRUE(ask({}).refusal.ok());
  EXPECT_TRUE(ask({}).refusal.ok());
  const Asked refused = ask({});
  EXPECT_EQ(refused.refusal.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(error_reason(refused.refusal), "QUEUE_FULL");
  const auto delay = error_retry_delay(refused.refusal);
  ASSERT_TRUE(delay.has_value());
  EXPECT_GE(*delay, Ms(50));
  EXPECT_LE(*delay, Ms(30000));
  EXPECT_FALSE(refused.stream->pop().has_value()) << "the caller reports a refusal";
  step();
  EXPECT_TRUE(ask({}).refusal.ok()) << "what runs does not queue";
}

TEST_F(SchedulerTest, a_queue_of_too_many_bytes_refuses) {
  config.max_queue_bytes = 1000;
  EXPECT_TRUE(ask({.image = 3, .pixels = 1000}).refusal.ok()) << "an empty queue takes anything";
  EXPECT_EQ(error_reason(ask({}).refusal), "QUEUE_FULL");
  step();
  EXPECT_TRUE(ask({.image = 3, .pixels = 100}).refusal.ok());
  EXPECT_TRUE(ask({.image = 3, .pixels = 100}).refusal.ok());
  EXPECT_EQ(error_reason(ask({.image = 3, .pixels = 100}).refusal), "QUEUE_FULL");
}

TEST_F(SchedulerTest, a_deadline_that_the_queue_alone_outlasts_is_refused) {
  config.max_num_seqs = 1;
  config.max_queue_time = std::chrono::hours(1);
  for (int i = 0; i < 12; ++i) ask({.text = 0, .max_tokens = 1});
  steps(10, Ms(100));
  // Two are left and each place takes about 100 ms.
  const absl::Status late = ask({.deadline = now + Ms(100)}).refusal;
  EXPECT_EQ(late.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(error_reason(late), "DEADLINE_UNMEETABLE");
  EXPECT_TRUE(error_retry_delay(late).has_value());
  EXPECT_TRUE(ask({.deadline = now + Ms(300)}).refusal.ok());
}

TEST_F(SchedulerTest, with_nobody_before_it_no_deadline_is_unmeetable) {
  config.max_num_seqs = 1;
  config.max_queue_time = std::chrono::hours(1);
  for (int i = 0; i < 12; ++i) ask({.text = 0, .max_tokens = 1});
  steps(12, Ms(100));
  expect_at_rest();
  EXPECT_TRUE(ask({.deadline = now + Ms(50)}).refusal.ok());
  EXPECT_FALSE(ask({.deadline = now + Ms(50)}).refusal.ok());
}

TEST_F(SchedulerTest, a_text_is_not_refused_for_pictures_that_let_it_pass) {
  config.max_queue_time = std::chrono::hours(1);
  for (int i = 0; i < 12; ++i) ask({.image = 3, .max_tokens = 1});
  steps(24, Ms(100));  // a picture takes about three
  EXPECT_EQ(error_reason(ask({.image = 3, .deadline = now + Ms(100)}).refusal),
            "DEADLINE_UNMEETABLE");
  EXPECT_TRUE(ask({.deadline = now + Ms(100)}).refusal.ok());
}

TEST_F(SchedulerTest, an_overload_that_is_over_is_forgotten) {
  config.max_num_seqs = 1;
  config.max_queue_time = std::chrono::hours(1);
  for (int i = 0; i < 12; ++i) ask({.text = 0, .max_tokens = 1});
  steps(12, Ms(1000));
  expect_at_rest();
  const auto refused = [&] {  // of two that come together
    const bool first = !ask({.text = 0, .max_tokens = 1}).refusal.ok();
    return first || !ask({.text = 0, .max_tokens = 1, .deadline = now + Ms(500)}).refusal.ok();
  };
  EXPECT_TRUE(refused());
  steps(2);
  for (int i = 0; i < 20; ++i) {  // an easy time
    ask({.text = 0, .max_tokens = 1});
    step();
  }
  EXPECT_FALSE(refused());
}

TEST_F(SchedulerTest, a_deadline_in_the_past_is_refused) {
  const absl::Status status = ask({.deadline = now}).refusal;
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(error_reason(status), "DEADLINE_EXCEEDED");
}

// --- in every state ------------------------------------------------------------------------------

// Brings request `a` into each state in which it can be ended.
class SchedulerStateTest : public SchedulerTest, public testing::WithParamInterface<const char*> {
 protected:
  Asked reach(const std::string& phase, Clock::time_point deadline = Clock::time_point::max()) {
    config.max_num_batched_tokens = 4;
    config.max_num_seqs = 1;
    const bool picture = phase == "vision" || phase == "encoded";
    if (phase == "queue") ask({.text = 0, .max_tokens = 100}), step();
    if (phase == "encoded") ask({.text = 0, .max_tokens = 100}), step();
    const int capacity = phase == "paused" || phase == "preempted" ? 1 : 100;
    const Asked a = ask({.text = 9,
                         .image = picture ? 3 : 0,
                         .max_tokens = 50,
                         .capacity = capacity,
                         .deadline = deadline});
    step();
    if (phase == "encoded") steps(10);
    if (phase == "decode" || phase == "paused") steps(5);
    if (phase == "preempted") {
      steps(5);
      ask({.text = 0, .max_tokens = 100});
      steps(2);
      EXPECT_EQ(a.sequence->preemptions, 1);
    }
    EXPECT_EQ(a.sequence->paused, phase == "paused" || phase == "preempted");
    return a;
  }

  void expect_gone(const Asked& a) {
    for (const ChunkWork& chunk : plan_.chunks) EXPECT_NE(chunk.sequence, a.sequence);
    for (const VisionWork& work : plan_.vision) EXPECT_NE(work.sequence, a.sequence);
    EXPECT_TRUE(a.sequence->block_table.empty());
    EXPECT_EQ(a.sequence->state, SequenceState::kFinished);
    const auto finished = scheduler().take_finished();
    EXPECT_EQ(std::count_if(finished.begin(), finished.end(),
                            [&](const auto& s) { return s.get() == a.sequence; }),
              1);
  }
};

INSTANTIATE_TEST_SUITE_P(Phases, SchedulerStateTest,
                         testing::Values("queue", "vision", "encoded", "prefill", "decode",
                                         "paused", "preempted"),
                         [](const auto& phase) { return std::string(phase.param); });

TEST_P(SchedulerStateTest, cancelling_frees_everything_within_one_schedule) {
  const Asked a = reach(GetParam());
  a.stream->cancel();
  plan();
  expect_gone(a);
  const auto end = drain(a);
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(end->status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(error_reason(end->status), "CANCELLED");
}

TEST_P(SchedulerStateTest, a_deadline_frees_everything_and_names_the_phase) {
  const Asked a = reach(GetParam(), now + Ms(100));
  now += Ms(100);
  plan();
  expect_gone(a);
  const auto end = drain(a);
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(end->status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(error_reason(end->status), "DEADLINE_EXCEEDED");
  const std::string state = GetParam();
  const std::string phase = state == "encoded"                          ? "prefill"
                            : state == "paused" || state == "preempted" ? "decode"
                                                                        : state;
  EXPECT_EQ(error_phase(end->status), phase);
}

TEST_P(SchedulerStateTest, failing_everything_ends_it_once) {
  const Asked a = reach(GetParam());
  plan();
  scheduler().fail_all(absl::UnavailableError("going away"), now);
  const auto end = drain(a);
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(end->status.code(), absl::StatusCode::kUnavailable);
  expect_at_rest();
}

TEST_F(SchedulerTest, a_cancelled_picture_leaves_the_tower_to_the_next) {
  const Asked first = ask({.image = 3});
  ask({.image = 3});
  EXPECT_EQ(step(), "v1[0,4)");
  first.stream->cancel();
  EXPECT_EQ(step(), "v2[0,4)");
}

// --- time ----------------------------------------------------------------------------------------

TEST_F(SchedulerTest, waiting_too_long_in_the_queue_ends_what_has_not_started) {
  config.max_num_seqs = 1;
  config.max_queue_time = Ms(50);
  const Asked runs = ask({.max_tokens = 100});
  const Asked waits = ask({});
  step();
  now += Ms(48);
  step();
  const auto end = drain(waits);
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(end->status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(error_reason(end->status), "QUEUE_TIMEOUT");
  EXPECT_EQ(end->timings.queue, Ms(50));
  EXPECT_EQ(end_reason(runs), "");
}

TEST_F(SchedulerTest, the_wait_before_a_request_was_submitted_counts) {
  config.max_num_seqs = 1;
  config.max_queue_time = Ms(50);
  ask({.max_tokens = 100});
  const Asked waits = ask({.waited = Ms(30)});
  EXPECT_EQ(scheduler().next_timeout(), now + Ms(20));
  step(42, Ms(19));
  EXPECT_EQ(end_reason(waits), "");
  step();
  EXPECT_EQ(end_reason(waits), "QUEUE_TIMEOUT");
}

TEST_F(SchedulerTest, a_first_token_that_comes_too_late_is_not_waited_for) {
  config.max_num_batched_tokens = 8;
  const Asked late = ask({.text = 40, .first_token_by = now + Ms(30)});
  EXPECT_EQ(scheduler().next_timeout(), now + Ms(30));
  EXPECT_EQ(step(42, Ms(20)), "1:0+8");
  EXPECT_EQ(step(42, Ms(9)), "1:8+8");
  EXPECT_EQ(step(), "");
  const auto end = drain(late);
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(end->status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(error_reason(end->status), "FIRST_TOKEN_TIMEOUT");
  EXPECT_EQ(error_phase(end->status), "prefill");
}

TEST_F(SchedulerTest, one_that_has_its_first_token_may_take_its_time) {
  const Asked slow = ask({.max_tokens = 3, .first_token_by = now + Ms(30)});
  steps(3, Ms(20));
  EXPECT_EQ(end_reason(slow), "ok");
}

TEST_F(SchedulerTest, a_reader_that_stops_pauses_its_request_and_ends_it_at_last) {
  config.slow_reader_time = Ms(50);
  const Asked slow = ask({.max_tokens = 100, .capacity = 2});
  steps(2);
  EXPECT_EQ(step(), "");
  EXPECT_EQ(scheduler().next_timeout(), now + Ms(50));
  slow.stream->pop();
  EXPECT_NE(step(), "") << "it reads again";
  now += Ms(20);
  EXPECT_EQ(step(), "");
  now += Ms(48);
  EXPECT_EQ(step(), "");
  EXPECT_EQ(slow.sequence->state, SequenceState::kRunning) << "the clock starts anew at each pause";
  step();
  const auto end = drain(slow);
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(end->status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(error_reason(end->status), "SLOW_READER");
  expect_at_rest();
}

// A reader that takes a little at a time never stops for long, but holds what it has for ever.
TEST_F(SchedulerTest, a_slow_reader_that_keeps_another_picture_waiting_is_ended_in_the_end) {
  config.max_pictures = 1;
  config.slow_reader_time = Ms(50);
  config.max_queue_time = std::chrono::hours(1);
  const Asked slow = ask({.image = 3, .max_tokens = 100, .capacity = 2});
  step_while([&] { return !slow.sequence->paused; });
  read_slowly(slow, 10);
  EXPECT_NE(slow.sequence->state, SequenceState::kFinished) << "it is in nobody's way";
  const Asked waits = ask({.image = 3, .max_tokens = 1});
  read_slowly(slow, 10);
  EXPECT_EQ(end_reason(slow), "SLOW_READER");
  steps(10);
  EXPECT_EQ(end_reason(waits), "ok");
}

TEST_F(SchedulerTest, a_slow_reader_whose_request_is_pinned_is_ended_once_somebody_wants_its_seat) {
  config.max_num_seqs = 1;
  config.slow_reader_time = Ms(50);
  const Asked slow = ask({.max_tokens = 100, .capacity = 1});
  step();
  preempt_until_pinned(slow);
  read_slowly(slow, 10);
  EXPECT_NE(slow.sequence->state, SequenceState::kFinished) << "it is in nobody's way";
  const Asked waits = ask({.max_tokens = 1});
  read_slowly(slow, 10);
  EXPECT_EQ(end_reason(slow), "SLOW_READER");
  step();
  EXPECT_EQ(end_reason(waits), "ok");
}

TEST_F(SchedulerTest, the_next_timeout_is_the_earliest_of_all) {
  EXPECT_EQ(scheduler().next_timeout(), Clock::time_point::max());
  ask({});
  EXPECT_EQ(scheduler().next_timeout(), now + config.max_queue_time);
  ask({.deadline = now + Ms(500)});
  EXPECT_EQ(scheduler().next_timeout(), now + Ms(500));
  now += Ms(1);
  ask({.deadline = now + Ms(200)});
  EXPECT_EQ(scheduler().next_timeout(), now + Ms(200));
  ask({});
  now += Ms(200);
  step();
  EXPECT_EQ(scheduler().next_timeout(), now - Ms(202) + Ms(500));
}

TEST_F(SchedulerTest, while_the_clock_goes_back_time_stands_still) {
  const Asked before = ask({.max_tokens = 3, .deadline = now + Ms(100)});
  step();
  now -= std::chrono::hours(1);
  const Asked meanwhile = ask({.max_tokens = 2});
  step();
  now += std::chrono::hours(1);
  step(42, Ms(10));
  const auto first = drain(before);
  const auto second = drain(meanwhile);
  ASSERT_TRUE(first.has_value() && second.has_value());
  EXPECT_TRUE(first->status.ok());
  EXPECT_EQ(first->timings.decode, Ms(11));
  EXPECT_EQ(second->timings.queue, Ms(0));
  EXPECT_EQ(second->timings.decode, Ms(11));
}

TEST_F(SchedulerTest, the_end_says_where_the_time_went_and_what_was_used) {
  const Asked a = ask({.text = 2, .image = 4, .max_tokens = 3});
  const Ms tick(1);
  now += Ms(9);
  step();  // starts 10 ms after it came; two tower steps, then prefill, two decode steps
  steps(4);
  const auto end = drain(a);
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(end->timings.queue, Ms(10));
  EXPECT_EQ(end->timings.vision, tick);
  EXPECT_EQ(end->timings.prefill, tick);
  EXPECT_EQ(end->timings.decode, 2 * tick);
  EXPECT_EQ(end->prompt_tokens, 7);
  EXPECT_EQ(end->image_tokens, 4);
  EXPECT_EQ(end->completion_tokens, 3);
}

TEST_F(SchedulerTest, the_prefill_of_a_text_begins_when_it_starts) {
  const Asked a = ask({.text = 20, .max_tokens = 3});
  now += Ms(9);
  steps(4);  // two for the prompt
  const auto end = drain(a);
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(end->timings.queue, Ms(10));
  EXPECT_EQ(end->timings.vision, Ms(0));
  EXPECT_EQ(end->timings.prefill, Ms(1));
  EXPECT_EQ(end->timings.decode, Ms(2));
}

// --- good ends -----------------------------------------------------------------------------------

TEST_F(SchedulerTest, an_end_token_is_delivered_counted_and_final) {
  config.eos_ids = {7, 8};
  const Asked a = ask({.max_tokens = 10});
  step(42);
  step(8);
  std::vector<int32_t> ids;
  const auto end = drain(a, &ids);
  EXPECT_EQ(ids, (std::vector<int32_t>{42, 8}));
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(end->reason, FinishReason::kStop);
  EXPECT_EQ(end->completion_tokens, 2);
  expect_at_rest();
}

TEST_F(SchedulerTest, ignore_eos_goes_on_but_not_past_stop_tokens) {
  config.eos_ids = {7};
  const Asked a = ask({.max_tokens = 10, .stop_ids = {9}, .ignore_eos = true});
  step(7);
  step(7);
  step(9);
  const auto end = drain(a);
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(end->reason, FinishReason::kStop);
  EXPECT_EQ(end->completion_tokens, 3);
}

TEST_F(SchedulerTest, max_tokens_is_exact_and_an_end_token_in_last_place_is_a_stop) {
  config.eos_ids = {7};
  const Asked length = ask({.max_tokens = 2});
  step();
  step();
  EXPECT_EQ(drain(length)->reason, FinishReason::kLength);
  const Asked stop = ask({.max_tokens = 2});
  step();
  step(7);
  const auto end = drain(stop);
  EXPECT_EQ(end->reason, FinishReason::kStop);
  EXPECT_EQ(end->completion_tokens, 2);
}

// --- faults --------------------------------------------------------------------------------------

TEST_F(SchedulerTest, a_token_that_is_not_finite_ends_its_sequence_alone) {
  const Asked bad = ask({.text = 0, .max_tokens = 9});
  step();
  const Asked good = ask({.text = 20, .max_tokens = 2});
  now += Ms(1);
  EXPECT_EQ(plan(), "1:1+1s 2:0+15");
  commit(0, false);
  const auto end = drain(bad);
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(end->status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(error_reason(end->status), "NUMERIC_FAULT");
  EXPECT_EQ(end->completion_tokens, 1) << "what is not finite is no token";
  steps(2);
  EXPECT_EQ(end_reason(good), "ok");
  expect_at_rest();
}

TEST_F(SchedulerTest, a_failed_plan_ends_its_own_sequences_and_no_other) {
  config.max_num_seqs = 1;
  const Asked runs = ask({});
  const Asked waits = ask({});
  plan();
  scheduler().fail(plan_, make_error(absl::StatusCode::kInternal, "SEQUENCE_FAULT", "", "x"), now);
  EXPECT_EQ(end_reason(runs), "SEQUENCE_FAULT");
  steps(4);
  EXPECT_EQ(end_reason(waits), "ok");
  expect_at_rest();
}

// A commit that throws half way has ended one sequence already; failing its plan ends the other.
TEST_F(SchedulerTest, a_commit_that_breaks_half_way_still_ends_each_request_once) {
  const Asked first = ask({.max_tokens = 1});
  const Asked second = ask({.max_tokens = 1});
  EXPECT_EQ(plan(), "1:0+4s 2:0+4s");
  const std::vector<SampledToken> too_few(1);
  EXPECT_THROW(scheduler().commit(plan_, too_few, now), InvariantError);
  scheduler().fail(plan_, make_error(absl::StatusCode::kInternal, "SEQUENCE_FAULT", "", "x"), now);
  EXPECT_EQ(end_reason(first), "ok");
  EXPECT_EQ(end_reason(second), "SEQUENCE_FAULT");
  EXPECT_EQ(scheduler().take_finished().size(), 2u);
  expect_at_rest();
}

}  // namespace
}  // namespace cogserve
