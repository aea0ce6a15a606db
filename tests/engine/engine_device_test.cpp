// The engine from end to end on the CPU, or on the device that --device names: what it answers
// alone, in company, in chunks and after preemptions is what it answers alone on the CPU.
//
// A backend that rounds its activations may choose another token where the CPU's lead is within
// rounding; the answers go their own ways from there and are not compared any further.
#include <gtest/gtest.h>

#include <cstdio>

#include "engine/engine_loop.hpp"
#include "tests/engine/device_presence.hpp"
#include "tests/engine/rounding.hpp"
#include "tests/engine/test_backend.hpp"
#include "tests/engine/tiny_model.hpp"

namespace cogserve {
namespace {

constexpr int kRequests = 8;

// One stream, with the lead of each token's log-probability over the next.
struct Answer {
  std::vector<int32_t> ids;
  std::vector<float> logprobs;
  std::vector<float> leads;
  EndEvent end;
};

Request make_request(int i) {
  Request request = make_tiny_request(100 + i, 3 + (i * 7) % 40, i % 3 != 0, 5 + (i * 5) % 16);
  request.sampling.logprobs = 2;
  return request;
}

Answer read(TokenStream& stream) {
  Answer answer;
  while (true) {
    TokenStream::Event event = stream.wait();
    if (auto* end = std::get_if<EndEvent>(&event)) {
      answer.end = *end;
      return answer;
    }
    const SampledToken& token = std::get<TokenEvent>(event).token;
    answer.ids.push_back(token.id);
    answer.logprobs.push_back(token.logprob);
    answer.leads.push_back(token.top[0].logprob - token.top[1].logprob);
  }
}

std::vector<Answer> ask_one_by_one(Engine& engine) {
  std::vector<Answer> answers;
  for (int i = 0; i < kRequests; ++i) answers.push_back(read(**engine.submit(make_request(i))));
  return answers;
}

std::vector<Answer> ask_together(Engine& engine) {
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (int i = 0; i < kRequests; ++i) streams.push_back(*engine.submit(make_request(i)));
  std::vector<Answer> answers;
  for (const auto& stream : streams) answers.push_back(read(*stream));
  return answers;
}

class EngineOnDevice : public testing::Test {
 protected:
  void SetUp() override {
    const auto backend = make_test_backend(test_options().device, 1);
    auto& presence = device_presence();
    if (!backend.ok()) return presence.missing(test_options().device, backend.status());
    presence.found();
    activation_ = (*backend)->activation_dtype();
    expected_ = ask_one_by_one(*start("cpu"));
  }

  static std::unique_ptr<Engine> start(const std::string& device,
                                       const std::function<void(EngineConfig&)>& adjust = nullptr) {
    EngineConfig config;
    config.model_dir = tiny_model_dir();
    config.device = device;
    config.load_format = LoadFormat::kDummy;
    config.seed = 7;
    config.kv_cache_bytes = size_t{4} << 20;
    config.max_queue_time = std::chrono::hours(1);  // an emulator takes its time
    if (adjust) adjust(config);
    auto backend = make_test_backend(device, 1);
    EXPECT_TRUE(backend.ok()) << backend.status();
    auto engine = start_engine(config, *std::move(backend), nullptr, [](std::string_view what) {
      ADD_FAILURE() << "a step failed: " << what;
    });
    EXPECT_TRUE(engine.ok()) << engine.status();
    return *std::move(engine);
  }

  size_t element_bytes() const { return dtype_size(activation_); }

  void expect_the_cpus_answers(const Engine& engine, const std::vector<Answer>& answers) const {
    const Rounding rounding(engine.info().model, activation_, DType::kBF16);
    size_t compared = 0;
    size_t all = 0;
    for (int i = 0; i < kRequests; ++i) {
      SCOPED_TRACE(i);
      const Answer& got = answers[i];
      const Answer& expected = expected_[i];
      ASSERT_TRUE(got.end.status.ok()) << got.end.status;
      ASSERT_EQ(got.ids.size(), expected.ids.size());
      all += expected.ids.size();
      // Dummy weights give logits with a root mean square of about one.
      const double limit = rounding.exact() ? 0 : rounding.logits_limit(1, i % 3 != 0);
      for (size_t t = 0; t < expected.ids.size(); ++t) {
        if (got.ids[t] != expected.ids[t]) {
          EXPECT_LE(expected.leads[t], 2 * limit) << "token " << t;
          break;
        }
        EXPECT_NEAR(got.logprobs[t], expected.logprobs[t], 2 * limit) << "token " << t;
        ++compared;
      }
    }
    std::printf("%zu of %zu tokens compared\n", compared, all);
    EXPECT_GT(compared, all / 3);
  }

 private:
  DType activation_ = DType::kF32;
  std::vector<Answer> expected_;
};

TEST_F(EngineOnDevice, answers_alone_what_the_cpu_answers) {
  const auto engine = start(test_options().device);
  expect_the_cpus_answers(*engine, ask_one_by_one(*engine));
}

TEST_F(EngineOnDevice, answers_the_same_in_company_and_in_chunks) {
  for (const int budget : {10, 64}) {
    SCOPED_TRACE(budget);
    const auto engine = start(test_options().device, [&](EngineConfig& config) {
      config.max_num_batched_tokens = budget;
      config.max_num_seqs = kRequests;
      config.vision_layers_per_step = 1;
    });
    expect_the_cpus_answers(*engine, ask_together(*engine));
  }
}

TEST_F(EngineOnDevice, answers_the_same_when_preempted) {
  constexpr int kBlocks = 24;
  const auto engine = start(test_options().device, [&](EngineConfig& config) {
    config.block_size = 4;
    config.max_num_batched_tokens = 32;
    config.max_num_seqs = kRequests;
    // 2 layers x K and V x 2 heads x 8 values a token
    config.kv_cache_bytes = size_t{64} * element_bytes() * 4 * kBlocks;
  });
  ASSERT_EQ(engine->info().num_blocks, kBlocks);
  int preemptions = 0;
  // A fast device may be through with each before the next one comes.
  for (int round = 0; round < 100 && preemptions == 0; ++round) {
    const auto answers = ask_together(*engine);
    expect_the_cpus_answers(*engine, answers);
    for (const Answer& answer : answers) preemptions += answer.end.preemptions;
  }
  EXPECT_GT(preemptions, 0) << "the pool was too roomy to prove anything";
}

TEST_F(EngineOnDevice, goes_on_after_requests_are_cancelled) {
  const auto engine = start(test_options().device);
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (int i = 0; i < kRequests; ++i) {
    Request request = make_request(i);
    request.max_tokens = 400;
    streams.push_back(*engine->submit(std::move(request)));
  }
  streams[0]->wait();
  for (const auto& stream : streams) stream->cancel();
  for (const auto& stream : streams) {
    EXPECT_EQ(read(*stream).end.status.code(), absl::StatusCode::kCancelled);
  }
  expect_the_cpus_answers(*engine, ask_one_by_one(*engine));
}

}  // namespace
}  // namespace cogserve
