// What the engine answers, whatever the company, the sizes and the backend; and how it starts.
#include "engine/engine.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <thread>
#include <utility>

#include "engine/base/check.hpp"
#include "engine/base/error.hpp"
#include "tests/engine/engine_fixture.hpp"

namespace cogserve {
namespace {

using ::testing::Contains;
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

// Ids and log-probabilities bit for bit.
void expect_same_answers(const std::vector<Outcome>& got, const std::vector<Outcome>& expected) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_TRUE(got[i].end.status.ok()) << i << ": " << got[i].end.status;
    EXPECT_EQ(got[i].ids, expected[i].ids) << i;
    EXPECT_EQ(got[i].logprobs, expected[i].logprobs) << i;
  }
}

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

// Computes the tower's layers when it is waited for, and not before; notes how many at a time.
class LateTowerBackend final : public ForwardingBackend {
 public:
  static constexpr std::chrono::milliseconds kStep{5};

  explicit LateTowerBackend(Manner manner, std::vector<int>* slices = nullptr)
      : ForwardingBackend(manner), slices_(slices) {}

  void dense_attention(const Tensor& qkv, int heads, int head_dim, float scale,
                       const Tensor& y) override {
    ++layers_;
    ForwardingBackend::dense_attention(qkv, heads, head_dim, scale, y);
  }
  void synchronize() override {
    compute();
    ForwardingBackend::synchronize();
  }

 protected:
  void before_collect() override { compute(); }

 private:
  void compute() {
    if (layers_ == 0) return;
    std::this_thread::sleep_for(kStep);
    const int layers = std::exchange(layers_, 0);
    if (slices_ != nullptr) slices_->push_back(layers);
  }

  std::vector<int>* const slices_;
  int layers_ = 0;
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

// All pictures but the first come while another one's answer is under way.
TEST(Engine, a_target_between_tokens_makes_the_slices_of_the_tower_smaller) {
  const auto config = tiny_engine_config([](EngineConfig& c) {
    c.vision_layers_per_step = 3;  // all
    c.max_itl = std::chrono::milliseconds(1);
  });
  std::vector<int> slices;
  auto engine = start_engine(config, std::make_unique<LateTowerBackend>(Manner::kCpu, &slices),
                             nullptr, nullptr)
                    .value();
  answers_together(*engine, std::vector<Request>(4, make_tiny_request(1, 5, true, 200)));
  engine.reset();
  ASSERT_FALSE(slices.empty());
  EXPECT_EQ(slices.front(), 3);
  EXPECT_THAT(slices, Contains(1));
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

TEST(Engine, answers_the_same_alone_and_in_a_batch_with_bf16_products) {
  const auto requests = mixed_requests(12);
  const auto in_bf16 = [](EngineConfig& config) { config.bf16_products = true; };
  const auto one_by_one = make_tiny_engine(in_bf16);
  EXPECT_THAT(one_by_one->info().device, HasSubstr("bf16 matrices times bf16"));
  const auto alone = answers_one_by_one(*one_by_one, requests);
  const auto engine = make_tiny_engine([&](EngineConfig& config) {
    in_bf16(config);
    config.max_num_batched_tokens = 64;
    config.threads = 3;
  });
  expect_same_answers(answers_together(*engine, requests), alone);
  EXPECT_NE(answers_one_by_one(*make_tiny_engine(), requests)[0].logprobs, alone[0].logprobs);
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
  config.device = "cpu";
  config.bf16_products = true;
  config.model_dir = COGSERVE_SOURCE_DIR "/tests/data/golden/mha-f16";
  engine = Engine::create(config, [](int64_t, int64_t) { FAIL() << "it loads"; });
  ASSERT_FALSE(engine.ok());
  EXPECT_EQ(std::string(engine.status().message()),
            "--dtype: bfloat16 wants a checkpoint in bf16, this one is in f16");
}

}  // namespace
}  // namespace cogserve
