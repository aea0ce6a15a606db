// How requests are refused and how they end.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "engine/base/error.hpp"
#include "tests/engine/engine_fixture.hpp"

namespace cogserve {
namespace {

using ::testing::HasSubstr;

TEST_P(EngineTest, reports_usage_and_the_reason_it_ended) {
  const auto engine = make();
  const Outcome outcome = generate(*engine, make_tiny_request(5, 10, true, 7));
  EXPECT_TRUE(outcome.end.status.ok());
  EXPECT_EQ(outcome.end.reason, FinishReason::kLength);
  EXPECT_EQ(outcome.end.image_tokens, 6);
  EXPECT_EQ(outcome.end.prompt_tokens, 1 + 6 + 10);
  EXPECT_EQ(outcome.end.completion_tokens, 7);
  EXPECT_EQ(outcome.ids.size(), 7u);
  EXPECT_GT(outcome.end.timings.vision.count(), 0);
  EXPECT_GT(outcome.end.timings.prefill.count(), 0);
  EXPECT_GT(outcome.end.timings.decode.count(), 0);
}

TEST_P(EngineTest, stops_at_a_stop_token_but_not_before_min_tokens) {
  const auto engine = make();
  const Outcome free_run = generate(*engine, make_tiny_request(11, 9, false, 20));
  Request request = make_tiny_request(11, 9, false, 20);
  request.stop_token_ids = {free_run.ids[2]};
  const Outcome stopped = generate(*engine, request);
  EXPECT_EQ(stopped.end.reason, FinishReason::kStop);
  ASSERT_LE(stopped.ids.size(), 3u);
  EXPECT_EQ(stopped.ids.back(), free_run.ids[2]);
  request.stop_token_ids = {free_run.ids[0]};
  EXPECT_EQ(generate(*engine, request).ids, request.stop_token_ids);
  request.stop_token_ids = {free_run.ids[2]};
  request.min_tokens = 10;
  const Outcome later = generate(*engine, request);
  EXPECT_GE(later.end.completion_tokens, 10);
  for (size_t i = 0; i < 9; ++i) EXPECT_NE(later.ids[i], free_run.ids[2]) << i;
}

TEST_P(EngineTest, end_tokens_are_not_drawn_before_min_tokens) {
  const auto engine = make();
  const auto ended_early = [&](int min_tokens) {
    std::vector<Request> requests;
    for (int i = 0; i < 50; ++i) {
      Request& request = requests.emplace_back(make_tiny_request(i, 3, false, 20));
      request.sampling.temperature = 2.0f;
      request.sampling.seed = i;
      request.ignore_eos = false;
      request.min_tokens = min_tokens;
    }
    int count = 0;
    for (const Outcome& outcome : answers_together(*engine, requests)) {
      count += outcome.ids.size() < 20;
    }
    return count;
  };
  EXPECT_GT(ended_early(0), 0) << "it draws no end tokens, which proves nothing";
  EXPECT_EQ(ended_early(20), 0);
}

TEST_P(EngineTest, refuses_at_once_what_can_never_run) {
  const auto engine = make([](EngineConfig& config) {
    config.kv_cache_bytes = size_t{256} * 16 * 8;  // 128 tokens
    config.max_model_len = 256;
  });
  const auto too_long = generate(*engine, make_tiny_request(1, 250, false, 20)).end.status;
  EXPECT_EQ(error_reason(too_long), "CONTEXT_LENGTH");
  EXPECT_THAT(std::string(too_long.message()), HasSubstr("256"));
  EXPECT_EQ(error_reason(generate(*engine, make_tiny_request(1, 150, false, 20)).end.status),
            "KV_NEVER_FITS");
  Request bad_id = make_tiny_request(1, 5, false, 5);
  bad_id.text_ids[3] = 101;
  EXPECT_EQ(error_reason(generate(*engine, bad_id).end.status), "TOKEN_ID_RANGE");
  Request bad_picture = make_tiny_request(1, 5, true, 5);
  bad_picture.pixels.pop_back();
  EXPECT_EQ(error_reason(generate(*engine, bad_picture).end.status), "IMAGE_SHAPE");
  EXPECT_TRUE(generate(*engine, make_tiny_request(1, 5, true, 5)).end.status.ok());
}

TEST_P(EngineTest, frees_everything_when_requests_are_cancelled_in_any_state) {
  const auto engine = make([](EngineConfig& config) {
    config.max_num_seqs = 4;
    config.max_num_batched_tokens = 8;
    config.vision_layers_per_step = 1;
    config.outbox_tokens = 4;  // nobody ends before it is cancelled, however slow this thread is
  });
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (int i = 0; i < 60; ++i) {
    streams.push_back(*engine->submit(make_tiny_request(i, 20, i % 2 == 0, 40)));
  }
  for (size_t i = 0; i < streams.size(); ++i) {
    if (i % 3 == 0) streams[i]->wait();  // running by now
    if (i % 4 != 3) streams[i]->cancel();
  }
  int cancelled = 0;
  for (const auto& stream : streams) {
    cancelled += drain(*stream).end.status.code() == absl::StatusCode::kCancelled ? 1 : 0;
  }
  EXPECT_EQ(cancelled, 45);
  EXPECT_TRUE(generate(*engine, make_tiny_request(1, 5, true, 5)).end.status.ok());
  EXPECT_TRUE(becomes_free(*engine));
}

TEST_P(EngineTest, ends_a_running_request_when_its_deadline_passes) {
  const auto engine = make([](EngineConfig& config) { config.outbox_tokens = 4; });  // none ends
  Outcome outcome;
  // A machine that is busy with other things may need more time to start it.
  for (std::chrono::milliseconds time{50}; outcome.ids.empty() && time.count() < 60'000;
       time *= 2) {
    Request request = make_tiny_request(3, 20, false, 400);
    request.deadline = Clock::now() + time;
    const auto stream = *engine->submit(request);
    while (Clock::now() < request.deadline) std::this_thread::yield();
    outcome = drain(*stream);
    ASSERT_EQ(error_reason(outcome.end.status), "DEADLINE_EXCEEDED");
  }
  EXPECT_EQ(error_phase(outcome.end.status), "decode");
}

// Only the engine's own clock wakes it: who reads nothing rings no bell.
TEST_P(EngineTest, a_reader_that_never_reads_is_ended_though_nobody_rings) {
  const auto engine = make([](EngineConfig& config) {
    config.outbox_tokens = 1;
    config.slow_reader_time = std::chrono::milliseconds(20);
  });
  const auto stream = *engine->submit(make_tiny_request(1, 5, false, 100));
  while (engine->stats().steps == 0) std::this_thread::yield();
  ASSERT_TRUE(becomes_free(*engine));
  const absl::Status status = drain(*stream).end.status;
  EXPECT_EQ(error_reason(status), "SLOW_READER");
  EXPECT_THAT(std::string(status.message()), HasSubstr(" 20 ms"));
}

TEST_P(EngineTest, requests_that_wait_too_long_for_a_seat_are_ended) {
  const auto engine = make([](EngineConfig& config) {
    config.max_num_seqs = 1;
    config.max_queue_time = std::chrono::milliseconds(1);
  });
  // Each that starts takes longer than that.
  const std::vector<Request> requests(8, make_tiny_request(1, 5, false, 250));
  int timeouts = 0;
  for (const Outcome& outcome : answers_together(*engine, requests)) {
    const absl::Status& status = outcome.end.status;
    if (status.ok()) continue;
    EXPECT_EQ(error_reason(status), "QUEUE_TIMEOUT");
    EXPECT_THAT(std::string(status.message()), HasSubstr(" 1 ms"));
    ++timeouts;
  }
  EXPECT_GT(timeouts, 0);
}

TEST_P(EngineTest, a_reader_that_lags_pauses_only_itself) {
  const auto engine = make([](EngineConfig& config) { config.outbox_tokens = 4; });
  const auto lagging = *engine->submit(make_tiny_request(1, 5, false, 100));
  lagging->wait();
  const Outcome other = generate(*engine, make_tiny_request(2, 5, true, 200));
  EXPECT_EQ(other.ids.size(), 200u);
  EXPECT_EQ(drain(*lagging).end.completion_tokens, 100);
}

TEST_P(EngineTest, ends_every_stream_when_it_is_destroyed) {
  auto engine = make([](EngineConfig& config) { config.outbox_tokens = 4; });  // nobody ends before
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (int i = 0; i < 20; ++i) {
    streams.push_back(*engine->submit(make_tiny_request(i, 20, true, 200)));
  }
  engine.reset();
  for (const auto& stream : streams) {
    const Outcome outcome = drain(*stream);
    EXPECT_EQ(error_reason(outcome.end.status), "ENGINE_STOPPED");
  }
}

}  // namespace
}  // namespace cogserve
