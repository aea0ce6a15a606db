#include "engine/engine.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <thread>
#include <utility>

#include "engine/base/check.hpp"
#include "engine/base/error.hpp"
#include "engine/engine_loop.hpp"
#include "tests/engine/forwarding_backend.hpp"
#include "tests/engine/tiny_model.hpp"

namespace cogserve {
namespace {

using ::testing::HasSubstr;

// Requests of every kind: with and without a picture, short and long.
std::vector<Request> mixed_requests(int count) {
  std::vector<Request> requests;
  for (int i = 0; i < count; ++i) {
    requests.push_back(make_tiny_request(100 + i, 3 + (i * 7) % 40, i % 3 != 0, 5 + (i * 5) % 30));
  }
  return requests;
}

std::vector<Outcome> answers_one_by_one(Engine& engine, const std::vector<Request>& requests) {
  std::vector<Outcome> outcomes;
  for (const Request& request : requests) outcomes.push_back(generate(engine, request));
  return outcomes;
}

std::vector<Outcome> answers_together(Engine& engine, const std::vector<Request>& requests) {
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (const Request& request : requests) {
    auto stream = engine.submit(request);
    EXPECT_TRUE(stream.ok()) << stream.status();
    streams.push_back(*stream);
  }
  std::vector<Outcome> outcomes;
  for (const auto& stream : streams) outcomes.push_back(drain(*stream));
  return outcomes;
}

// Ids and log-probabilities bit for bit.
void expect_same_answers(const std::vector<Outcome>& got, const std::vector<Outcome>& expected) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_TRUE(got[i].end.status.ok()) << i << ": " << got[i].end.status;
    EXPECT_EQ(got[i].ids, expected[i].ids) << i;
    EXPECT_EQ(got[i].logprobs, expected[i].logprobs) << i;
  }
}

// The figures lag a step behind the streams: looks until they show a free engine, or gives up.
bool becomes_free(const Engine& engine) {
  for (int look = 0; look < 10'000'000; ++look) {
    const EngineStats stats = engine.stats();
    if (stats.waiting == 0 && stats.running == 0 && stats.blocks_used == 0) return true;
    std::this_thread::yield();
  }
  return false;
}

using Manner = ForwardingBackend::Manner;

std::unique_ptr<Engine> make_engine(Manner manner,
                                    const std::function<void(EngineConfig&)>& adjust = nullptr) {
  if (manner == Manner::kCpu) return make_tiny_engine(adjust);
  auto engine = start_engine(tiny_engine_config(adjust),
                             std::make_unique<ForwardingBackend>(manner), nullptr, nullptr);
  EXPECT_TRUE(engine.ok()) << engine.status();
  return *std::move(engine);
}

// An engine that takes each step's tokens before it plans the next, and one that works ahead with
// padded steps. What is expected comes from the first kind.
class EngineTest : public ::testing::TestWithParam<Manner> {
 protected:
  static std::unique_ptr<Engine> make(const std::function<void(EngineConfig&)>& adjust = nullptr) {
    return make_engine(GetParam(), adjust);
  }
};
INSTANTIATE_TEST_SUITE_P(Manners, EngineTest, ::testing::Values(Manner::kCpu, Manner::kGpu),
                         [](const auto& manner) {
                           return manner.param == Manner::kCpu ? "in_turn" : "ahead";
                         });

TEST_P(EngineTest, answers_the_same_alone_and_in_a_batch_for_every_chunk_size) {
  const auto requests = mixed_requests(24);
  const auto alone = answers_one_by_one(*make_tiny_engine(), requests);
  for (const int budget : {3, 7, 16, 64, 512}) {
    const auto engine = make([&](EngineConfig& config) {
      config.max_num_batched_tokens = budget;
      config.max_num_seqs = std::min(budget, 16);
      config.vision_layers_per_step = 1;
    });
    SCOPED_TRACE(budget);
    expect_same_answers(answers_together(*engine, requests), alone);
  }
}

TEST_P(EngineTest, answers_the_same_alone_and_in_a_batch_with_quantised_weights) {
  const auto requests = mixed_requests(12);
  const auto quantise = [](EngineConfig& config) {
    config.formats = {WeightFormat::kInt4, WeightFormat::kInt8, WeightFormat::kInt8};
  };
  const auto one_by_one = make(quantise);
  EXPECT_EQ(one_by_one->info().dtype, "decoder int4, vision int8, lm_head int8, else bf16");
  const auto alone = answers_one_by_one(*one_by_one, requests);
  for (const int budget : {7, 64}) {
    const auto engine = make([&](EngineConfig& config) {
      quantise(config);
      config.max_num_batched_tokens = budget;
      config.max_num_seqs = std::min(budget, 16);
      config.threads = 3;
    });
    SCOPED_TRACE(budget);
    expect_same_answers(answers_together(*engine, requests), alone);
  }
  const auto dense = make_tiny_engine();
  EXPECT_EQ(dense->info().dtype, "bf16");
  EXPECT_GT(dense->info().weight_bytes, 0u);
  EXPECT_NE(answers_one_by_one(*dense, requests)[0].logprobs, alone[0].logprobs);
}

TEST_P(EngineTest, answers_the_same_when_preempted_again_and_again) {
  const auto requests = mixed_requests(24);
  const auto alone = answers_one_by_one(*make_tiny_engine(), requests);
  int preemptions = 0;
  for (const int blocks : {24, 32, 48}) {
    const auto engine = make([&](EngineConfig& config) {
      config.block_size = 4;
      config.max_num_batched_tokens = 32;
      config.max_num_seqs = 16;
      // 2 layers x K and V x 2 heads x 8 values x 4 bytes a token
      config.kv_cache_bytes = size_t{256} * 4 * blocks;
    });
    ASSERT_EQ(engine->info().num_blocks, blocks);
    SCOPED_TRACE(blocks);
    const auto outcomes = answers_together(*engine, requests);
    expect_same_answers(outcomes, alone);
    for (const Outcome& outcome : outcomes) preemptions += outcome.end.preemptions;
    EXPECT_TRUE(becomes_free(*engine));
  }
  EXPECT_GT(preemptions, 10) << "the pools were too roomy to prove anything";
}

TEST_P(EngineTest, answers_the_same_whatever_the_block_size_and_the_threads) {
  const auto requests = mixed_requests(12);
  const auto reference = answers_together(*make_tiny_engine(), requests);
  for (const int block_size : {1, 5, 16, 64}) {
    const auto engine = make([&](EngineConfig& config) {
      config.block_size = block_size;
      config.threads = 3;
    });
    SCOPED_TRACE(block_size);
    expect_same_answers(answers_together(*engine, requests), reference);
  }
}

TEST_P(EngineTest, draws_the_same_tokens_from_the_same_seed_whatever_the_company) {
  auto requests = mixed_requests(12);
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].sampling.temperature = 1.5f;
    requests[i].sampling.seed = i % 4;
    requests[i].sampling.top_p = 0.95f;
    if (i % 3 == 0) requests[i].sampling.repetition_penalty = 1.2f;
    requests[i].min_tokens = static_cast<int>(i);
  }
  const auto alone = answers_one_by_one(*make_tiny_engine(), requests);
  const auto engine = make();
  expect_same_answers(answers_together(*engine, requests), alone);
  requests[0].sampling.seed = 99;
  EXPECT_NE(generate(*engine, requests[0]).ids, alone[0].ids);
}

// The token that an end or stop token's step was followed by is dropped, and so are its blocks.
TEST_P(EngineTest, ends_at_stop_tokens_as_if_each_step_waited_for_the_last) {
  auto requests = mixed_requests(24);
  const auto endless = answers_one_by_one(*make_tiny_engine(), requests);
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].stop_token_ids = {endless[i].ids[i % endless[i].ids.size()]};
    requests[i].ignore_eos = i % 2 == 0;
  }
  const auto expected = answers_one_by_one(*make_tiny_engine(), requests);
  const auto engine = make([](EngineConfig& config) {
    config.block_size = 4;
    config.max_num_seqs = 6;
    config.max_num_batched_tokens = 20;
    config.kv_cache_bytes = size_t{256} * 4 * 40;
  });
  const auto outcomes = answers_together(*engine, requests);
  expect_same_answers(outcomes, expected);
  for (size_t i = 0; i < outcomes.size(); ++i) {
    EXPECT_EQ(outcomes[i].end.reason, expected[i].end.reason) << i;
  }
  EXPECT_TRUE(becomes_free(*engine));
}

TEST_P(EngineTest, a_pictures_answer_is_not_another_pictures) {
  const auto engine = make();
  Request first = make_tiny_request(1, 6, true, 12);
  Request second = first;
  for (float& pixel : second.pixels) pixel = -pixel;
  const auto alone_first = generate(*engine, first);
  const auto alone_second = generate(*engine, second);
  ASSERT_NE(alone_first.logprobs, alone_second.logprobs);
  std::vector<Request> requests;
  for (int i = 0; i < 8; ++i) requests.push_back(i % 2 == 0 ? first : second);
  const auto outcomes = answers_together(*engine, requests);
  for (int i = 0; i < 8; ++i) {
    EXPECT_EQ(outcomes[i].logprobs, (i % 2 == 0 ? alone_first : alone_second).logprobs) << i;
  }
}

// One place for a picture: the next one enters the tower while the step after the last one's end is
// still under way.
TEST_P(EngineTest, pictures_follow_one_another_without_a_fault_where_one_is_kept) {
  std::vector<Request> requests;
  for (int i = 0; i < 6; ++i) requests.push_back(make_tiny_request(i, 4, true, 12));
  const auto endless = answers_one_by_one(*make_tiny_engine(), requests);
  for (int i = 0; i < 6; ++i) requests[i].stop_token_ids = {endless[i].ids[5]};
  const auto expected = answers_one_by_one(*make_tiny_engine(), requests);
  std::atomic<int> faults = 0;
  const EngineConfig config = tiny_engine_config([](EngineConfig& tiny) { tiny.max_num_seqs = 1; });
  auto engine = *start_engine(config, std::make_unique<ForwardingBackend>(GetParam()), nullptr,
                              [&](std::string_view) { ++faults; });
  expect_same_answers(answers_together(*engine, requests), expected);
  engine.reset();
  EXPECT_EQ(faults, 0);
}

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
  request.min_tokens = 10;
  const Outcome later = generate(*engine, request);
  EXPECT_GE(later.end.completion_tokens, 10);
  for (size_t i = 0; i < 9; ++i) EXPECT_NE(later.ids[i], free_run.ids[2]) << i;
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

TEST_P(EngineTest, ends_a_request_whose_deadline_passes) {
  const auto engine = make();
  Request request = make_tiny_request(3, 20, true, 400);
  request.deadline = Clock::now();
  const Outcome outcome = generate(*engine, request);
  EXPECT_EQ(outcome.end.status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_LT(outcome.ids.size(), 400u);
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

// Counts how many draws are under way at a time, and inputs whose ids the host did not know.
class WatchedBackend final : public ForwardingBackend {
 public:
  struct Seen {
    int most_draws = 0;
    int drawn_inputs = 0;
  };

  WatchedBackend(Manner manner, Seen* seen) : ForwardingBackend(manner), seen_(seen) {}

 protected:
  void before_embed(std::span<const int32_t> ids) override {
    for (const int32_t id : ids) seen_->drawn_inputs += id < kNoToken;
  }
  void before_sample(std::span<const SampleRow> /*rows*/) override {
    seen_->most_draws = std::max(seen_->most_draws, ++draws_);
  }
  void before_collect() override { --draws_; }

 private:
  Seen* const seen_;
  int draws_ = 0;
};

TEST(Engine, starts_the_next_step_before_it_takes_the_tokens_of_the_last_where_that_pays) {
  for (const Manner manner : {Manner::kCpu, Manner::kGpu}) {
    WatchedBackend::Seen seen;
    auto engine = start_engine(tiny_engine_config(),
                               std::make_unique<WatchedBackend>(manner, &seen), nullptr, nullptr);
    EXPECT_EQ(generate(**engine, make_tiny_request(1, 5, true, 30)).ids.size(), 30u);
    engine->reset();
    EXPECT_EQ(seen.most_draws, manner == Manner::kGpu ? 2 : 1);
    EXPECT_EQ(seen.drawn_inputs, manner == Manner::kGpu ? 29 : 0);
  }
}

// Computes the tower's layers when it is waited for, and not before.
class LateTowerBackend final : public ForwardingBackend {
 public:
  static constexpr std::chrono::milliseconds kStep{5};

  explicit LateTowerBackend(Manner manner) : ForwardingBackend(manner) {}

  void synchronize() override {
    if (std::exchange(under_way_, false)) std::this_thread::sleep_for(kStep);
    ForwardingBackend::synchronize();
  }

 protected:
  void before_tower_operation() override { under_way_ = true; }

 private:
  bool under_way_ = false;
};

TEST_P(EngineTest, counts_what_a_picture_takes_until_it_is_computed) {
  const auto config = tiny_engine_config([](EngineConfig& c) { c.vision_layers_per_step = 1; });
  const auto engine =
      start_engine(config, std::make_unique<LateTowerBackend>(GetParam()), nullptr, nullptr)
          .value();
  const Outcome outcome = generate(*engine, make_tiny_request(1, 5, true, 3));
  ASSERT_TRUE(outcome.end.status.ok()) << outcome.end.status;
  EXPECT_GE(outcome.end.timings.vision, LateTowerBackend::kStep);
}

TEST(Engine, names_the_batches_that_a_device_prepares_for) {
  const auto adjust = [](EngineConfig& config) { config.max_num_seqs = 10; };
  EXPECT_TRUE(make_engine(Manner::kCpu, adjust)->info().decode_batches.empty());
  EXPECT_EQ(make_engine(Manner::kGpu, adjust)->info().decode_batches, (std::vector<int>{4, 8, 10}));
}

// Breaks while it is loaded, when no step is there to end.
class UnloadableBackend final : public ForwardingBackend {
 public:
  absl::StatusOr<Weight> load_weight(const HostWeight& /*source*/) override {
    throw DeviceFault("device lost");
  }
};

TEST(Engine, does_not_start_on_a_device_that_breaks_meanwhile) {
  const absl::Status status =
      start_engine(tiny_engine_config(), std::make_unique<UnloadableBackend>(), nullptr, nullptr)
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(error_reason(status), "DEVICE");
  EXPECT_THAT(std::string(status.message()), HasSubstr("device lost"));
}

// Has no memory for the weights.
class FullBackend final : public ForwardingBackend {
 public:
  absl::Status reserve_weights(size_t bytes) override {
    EXPECT_GT(bytes, 0u);
    return make_error(absl::StatusCode::kResourceExhausted, "MEMORY", "", "full");
  }
};

TEST(Engine, asks_for_the_memory_of_all_weights_before_it_loads_any) {
  const auto engine = start_engine(
      tiny_engine_config(), std::make_unique<FullBackend>(),
      [](int64_t, int64_t) { FAIL() << "it loads"; }, nullptr);
  EXPECT_EQ(error_reason(engine.status()), "MEMORY");
}

TEST_P(EngineTest, takes_requests_from_many_threads) {
  const auto engine = make();
  const auto expected = generate(*engine, make_tiny_request(1, 8, true, 10));
  std::vector<std::future<std::vector<int32_t>>> answers;
  for (int thread = 0; thread < 4; ++thread) {
    answers.push_back(std::async(std::launch::async, [&] {
      std::vector<int32_t> ids;
      for (int i = 0; i < 10; ++i) ids = generate(*engine, make_tiny_request(1, 8, true, 10)).ids;
      return ids;
    }));
  }
  for (auto& answer : answers) EXPECT_EQ(answer.get(), expected.ids);
}

// The published shapes, on a machine that has not 39 GB to spare: refused before a byte is loaded.
TEST(Engine, refuses_what_does_not_fit_before_it_loads_anything) {
  const auto backend = make_backend("cpu", 1).value();
  EngineConfig config;
  config.model_dir = tiny_model_dir();
  config.load_format = LoadFormat::kDummy;
  config.kv_cache_bytes = static_cast<size_t>(backend->available_memory()) + (size_t{1} << 30);
  const auto engine = Engine::create(config, [](int64_t, int64_t) { FAIL() << "it loads"; });
  ASSERT_FALSE(engine.ok());
  EXPECT_EQ(error_reason(engine.status()), "MEMORY_PLAN");
  EXPECT_THAT(std::string(engine.status().message()), HasSubstr("KV cache"));
}

TEST(Engine, says_what_is_wrong_with_its_configuration) {
  EngineConfig config;
  config.model_dir = tiny_model_dir();
  config.load_format = LoadFormat::kDummy;
  config.kv_cache_bytes = 100;
  auto engine = Engine::create(config, nullptr);
  ASSERT_FALSE(engine.ok());
  EXPECT_THAT(std::string(engine.status().message()), HasSubstr("kv-cache-memory-bytes"));
  config.kv_cache_bytes = size_t{1} << 20;
  config.device = "tpu";
  engine = Engine::create(config, nullptr);
  ASSERT_FALSE(engine.ok());
  EXPECT_THAT(std::string(engine.status().message()), HasSubstr("tpu"));
}

}  // namespace
}  // namespace cogserve
