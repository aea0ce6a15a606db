// What a step that throws, or hangs, does to the requests in it: the one at fault ends, its
// neighbours get the tokens that they would have got without it.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "engine/base/check.hpp"
#include "engine/base/error.hpp"
#include "engine/engine_loop.hpp"
#include "tests/engine/forwarding_backend.hpp"
#include "tests/engine/tiny_model.hpp"

namespace cogserve {
namespace {

constexpr int32_t kPoisonId = 77;        // breaks the pass that computes it
constexpr int32_t kLatePoisonId = 78;    // breaks the fourth draw of a sequence that holds it
constexpr float kPoisonPixel = 1000.0f;  // breaks the tower when a picture begins with it

// Least operations of a pass of the decoder, and of the tower's own for a picture.
constexpr int kDecoderOperations = 18;
constexpr int kTowerOperations = 12;

bool contains(std::span<const int32_t> ids, int32_t id) {
  return std::count(ids.begin(), ids.end(), id) > 0;
}

// Throws `distance` operations after poison has come into a pass.
class PoisonedBackend final : public ForwardingBackend {
 public:
  PoisonedBackend(Manner manner, int distance) : ForwardingBackend(manner), distance_(distance) {}

 protected:
  void before_operation() override { count_down(&decoder_countdown_); }
  void before_tower_operation() override { count_down(&tower_countdown_); }
  void before_embed(std::span<const int32_t> ids) override {
    if (contains(ids, kPoisonId)) decoder_countdown_ = distance_ % kDecoderOperations;
  }
  void before_picture(const Tensor& pixels) override {
    const bool poison = *static_cast<const float*>(pixels.data) == kPoisonPixel;
    tower_countdown_ = poison ? distance_ % kTowerOperations : kOff;
  }
  void before_sample(std::span<const SampleRow> rows) override {
    for (const SampleRow& row : rows) {
      if (row.index() < 3 || !contains(row.prompt_ids, kLatePoisonId)) continue;
      throw std::runtime_error("late poison");
    }
  }

 private:
  static constexpr int kOff = -1;

  static void count_down(int* countdown) {
    if (*countdown >= 0 && (*countdown)-- == 0) throw std::runtime_error("poison");
  }

  const int distance_;
  int decoder_countdown_ = kOff;
  int tower_countdown_ = kOff;
};

std::unique_ptr<Engine> start_tiny_engine(
    std::unique_ptr<Backend> backend, const std::function<void(EngineConfig&)>& adjust = nullptr) {
  EngineConfig config;
  config.model_dir = tiny_model_dir();
  config.load_format = LoadFormat::kDummy;
  config.seed = 7;
  config.kv_cache_bytes = size_t{4} << 20;
  config.max_num_batched_tokens = 48;
  config.max_num_seqs = 16;
  config.vision_layers_per_step = 1;
  if (adjust) adjust(config);
  auto engine = start_engine(config, std::move(backend), nullptr, nullptr);
  EXPECT_TRUE(engine.ok()) << engine.status();
  return *std::move(engine);
}

Request clean_request(int i) {
  Request request = make_tiny_request(300 + i, 3 + (i * 7) % 30, i % 3 == 0, 6 + (i * 5) % 20);
  for (int32_t& id : request.text_ids) {
    if (id == kPoisonId || id == kLatePoisonId) id = kLatePoisonId + 1;
  }
  return request;
}

Request poisoned_request(int i) {
  Request request = clean_request(i);
  int32_t& id = request.text_ids[i % request.text_ids.size()];
  if (i % 3 == 0) {
    request.pixels[0] = kPoisonPixel;
  } else {
    id = i % 3 == 1 ? kPoisonId : kLatePoisonId;
  }
  return request;
}

// Steps one by one, and steps that start before the last one's tokens are known.
class EngineFault : public ::testing::TestWithParam<ForwardingBackend::Manner> {};
INSTANTIATE_TEST_SUITE_P(Manners, EngineFault,
                         ::testing::Values(ForwardingBackend::Manner::kCpu,
                                           ForwardingBackend::Manner::kGpu),
                         [](const auto& manner) {
                           return manner.param == ForwardingBackend::Manner::kCpu ? "in_turn"
                                                                                  : "ahead";
                         });

// Wherever in a pass it throws, and whatever its neighbours do at the time.
TEST_P(EngineFault, a_request_that_breaks_its_step_ends_alone) {
  constexpr int kNeighbours = 24;
  const auto sound = start_tiny_engine(std::make_unique<ForwardingBackend>());
  std::vector<Outcome> alone;
  for (int i = 0; i < kNeighbours; ++i) alone.push_back(generate(*sound, clean_request(i)));

  for (int distance = 0; distance < kDecoderOperations; ++distance) {
    SCOPED_TRACE(distance);
    const auto engine = start_tiny_engine(std::make_unique<PoisonedBackend>(GetParam(), distance));
    std::vector<std::shared_ptr<TokenStream>> clean;
    std::vector<std::shared_ptr<TokenStream>> poisoned;
    for (int i = 0; i < kNeighbours; ++i) {
      clean.push_back(*engine->submit(clean_request(i)));
      if (i % 4 == 0) poisoned.push_back(*engine->submit(poisoned_request(distance + i)));
    }
    for (int i = 0; i < kNeighbours; ++i) {
      const Outcome outcome = drain(*clean[i]);
      ASSERT_TRUE(outcome.end.status.ok()) << i << ": " << outcome.end.status;
      EXPECT_EQ(outcome.ids, alone[i].ids) << i;
      EXPECT_EQ(outcome.logprobs, alone[i].logprobs) << i;
    }
    for (const auto& stream : poisoned) {
      EXPECT_EQ(error_reason(drain(*stream).end.status), "SEQUENCE_FAULT");
    }
    EXPECT_TRUE(engine->healthy());
  }
}

// Every operation of every pass throws `Fault` from the moment that it is told to.
template <typename Fault>
class BrokenBackend final : public ForwardingBackend {
 public:
  BrokenBackend(Manner manner, std::shared_ptr<std::atomic<bool>> broken)
      : ForwardingBackend(manner), broken_(std::move(broken)) {}

 protected:
  void before_operation() override {
    if (*broken_) throw Fault("device lost");
  }

 private:
  const std::shared_ptr<std::atomic<bool>> broken_;
};

struct Ends {
  int faults = 0;
  int restarts = 0;
};

// Twelve streams under way when the backend breaks; how they end.
template <typename Fault>
Ends ends_of_streams_when_broken(ForwardingBackend::Manner manner) {
  const auto broken = std::make_shared<std::atomic<bool>>(false);
  const auto engine = start_tiny_engine(std::make_unique<BrokenBackend<Fault>>(manner, broken));
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (int i = 0; i < 12; ++i) {
    Request request = clean_request(i);
    request.max_tokens = 300;
    streams.push_back(*engine->submit(std::move(request)));
  }
  streams[1]->wait();
  *broken = true;
  Ends ends;
  for (const auto& stream : streams) {
    const absl::Status status = drain(*stream).end.status;
    ends.faults += error_reason(status) == "SEQUENCE_FAULT";
    ends.restarts += error_reason(status) == "ENGINE_RESTARTING" && absl::IsUnavailable(status);
  }
  EXPECT_FALSE(engine->healthy());
  const auto refused = engine->submit(clean_request(0));
  EXPECT_EQ(error_reason(refused.status()), "ENGINE_RESTARTING");
  return ends;
}

TEST_P(EngineFault, step_after_step_that_breaks_ends_every_stream_and_the_engines_health) {
  const Ends ends = ends_of_streams_when_broken<std::runtime_error>(GetParam());
  EXPECT_EQ(ends.faults + ends.restarts, 12);
  EXPECT_GT(ends.restarts, ends.faults);
}

TEST_P(EngineFault, a_lost_device_ends_every_stream_as_unavailable_and_blames_nobody) {
  const Ends ends = ends_of_streams_when_broken<DeviceFault>(GetParam());
  EXPECT_EQ(ends.restarts, 12);
}

// Loses the tokens of every seventh draw, as a device does that fails after it took the work.
class ForgetfulBackend final : public ForwardingBackend {
 public:
  explicit ForgetfulBackend(Manner manner) : ForwardingBackend(manner) {}

  void collect(std::span<SampledToken> sampled) override {
    ForwardingBackend::collect(sampled);
    if (++draws_ % 7 == 0) throw std::runtime_error("tokens lost");
  }

 private:
  int draws_ = 0;
};

TEST_P(EngineFault, tokens_that_are_lost_are_drawn_again) {
  constexpr int kRequests = 24;
  int faults = 0;
  const auto sound = start_tiny_engine(std::make_unique<ForwardingBackend>());
  const auto engine = start_tiny_engine(std::make_unique<ForgetfulBackend>(GetParam()));
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (int i = 0; i < kRequests; ++i) streams.push_back(*engine->submit(clean_request(i)));
  for (int i = 0; i < kRequests; ++i) {
    const Outcome outcome = drain(*streams[i]);
    if (error_reason(outcome.end.status) == "SEQUENCE_FAULT") {
      ++faults;
      continue;
    }
    ASSERT_TRUE(outcome.end.status.ok()) << i << ": " << outcome.end.status;
    EXPECT_EQ(outcome.ids, generate(*sound, clean_request(i)).ids) << i;
  }
  // Alone in its step, a request that fails is the one at fault. Where steps start ahead, the one
  // that goes alone comes right after the loss, and the next draw that is lost does later.
  const bool ahead = GetParam() == ForwardingBackend::Manner::kGpu;
  EXPECT_LE(faults, ahead ? 0 : kRequests - 1);
  EXPECT_TRUE(engine->healthy());
}

// Holds up whoever passes while it is closed.
class Gate {
 public:
  void close() { set_open(false); }
  void open() { set_open(true); }

  void pass() {
    std::unique_lock lock(mutex_);
    held_ = !open_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return open_; });
    held_ = false;
  }
  // Returns when it holds somebody up.
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return held_; });
  }

 private:
  void set_open(bool open) {
    const std::lock_guard lock(mutex_);
    open_ = open;
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
  bool held_ = false;
};

// Every pass goes through a gate.
class GatedBackend final : public ForwardingBackend {
 public:
  explicit GatedBackend(Gate* gate) : gate_(gate) {}

 protected:
  void before_embed(std::span<const int32_t> /*ids*/) override { gate_->pass(); }

 private:
  Gate* const gate_;
};

TEST(EngineHang, a_step_that_hangs_is_silent_until_it_moves_again) {
  Gate gate;
  const auto engine = start_tiny_engine(std::make_unique<GatedBackend>(&gate));
  EXPECT_EQ(engine->silence(), Clock::duration::zero());
  const auto stream = *engine->submit(clean_request(1));
  while (engine->silence() < std::chrono::milliseconds(20)) std::this_thread::yield();
  gate.open();
  EXPECT_TRUE(drain(*stream).end.status.ok());
  while (engine->silence() > Clock::duration::zero()) std::this_thread::yield();
}

// Room for ten pictures and not for what is with them.
std::unique_ptr<Engine> start_engine_with_small_inbox(Gate* gate) {
  return start_tiny_engine(std::make_unique<GatedBackend>(gate), [](EngineConfig& config) {
    config.max_queue_bytes = 10 * clean_request(0).pixels.size() * sizeof(float);
  });
}

// Holds the step of a text up, fills the inbox meanwhile, and lets all go on to a good end.
void expect_room_for_nine_pictures(Engine& engine, Gate* gate) {
  gate->close();
  std::vector<std::shared_ptr<TokenStream>> streams = {*engine.submit(clean_request(1))};
  gate->wait();
  absl::Status refusal;
  for (int i = 0; i < 20 && refusal.ok(); ++i) {
    auto stream = engine.submit(clean_request(0));
    refusal = stream.status();
    if (stream.ok()) streams.push_back(*std::move(stream));
  }
  EXPECT_EQ(error_reason(refusal), "QUEUE_FULL");
  EXPECT_TRUE(error_retry_delay(refusal).has_value());
  EXPECT_EQ(streams.size(), 10u) << "a text that runs, and nine pictures with their ids";
  EXPECT_TRUE(engine.check_room(0, 0).ok()) << "a text would fit";
  EXPECT_FALSE(engine.check_room(0, clean_request(0).pixels.size() * sizeof(float)).ok());
  gate->open();
  for (const auto& stream : streams) EXPECT_TRUE(drain(*stream).end.status.ok());
}

TEST(EngineHang, what_comes_during_a_long_step_is_bounded_in_bytes) {
  Gate gate;
  expect_room_for_nine_pictures(*start_engine_with_small_inbox(&gate), &gate);
}

TEST(EngineHang, says_that_the_queue_is_full_before_anything_is_submitted) {
  Gate gate;
  const auto engine = start_tiny_engine(std::make_unique<GatedBackend>(&gate), [](auto& config) {
    config.max_num_seqs = 1;
    config.max_queue_size = 3;
  });
  EXPECT_TRUE(engine->check_room(0, 0).ok());
  gate.close();
  std::vector<std::shared_ptr<TokenStream>> streams = {*engine->submit(clean_request(1))};
  gate.wait();  // it runs
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(engine->check_room(0, 0).ok()) << i;
    streams.push_back(*engine->submit(clean_request(1)));
  }
  const absl::Status full = engine->check_room(0, 0);
  EXPECT_EQ(error_reason(full), "QUEUE_FULL");
  EXPECT_EQ(error_limit(full), "3");
  EXPECT_EQ(error_got(full), "4");
  EXPECT_TRUE(error_retry_delay(full).has_value());
  EXPECT_EQ(error_reason(engine->submit(clean_request(1)).status()), "QUEUE_FULL");
  gate.open();
  for (const auto& stream : streams) EXPECT_TRUE(drain(*stream).end.status.ok());
  EXPECT_TRUE(engine->check_room(0, 0).ok());
}

TEST(EngineHang, a_flood_during_a_long_step_leaves_room_to_other_callers) {
  Gate gate;
  const auto engine = start_tiny_engine(std::make_unique<GatedBackend>(&gate),
                                        [](auto& config) { config.max_queue_size = 8; });
  const auto request_of = [](uint64_t caller) {
    Request request = clean_request(1);
    request.caller = caller;
    return request;
  };
  gate.close();
  std::vector<std::shared_ptr<TokenStream>> streams = {*engine->submit(request_of(1))};
  gate.wait();
  for (int i = 0; i < 6; ++i) streams.push_back(*engine->submit(request_of(1)));
  EXPECT_EQ(error_reason(engine->check_room(1, 0)), "TENANT_QUOTA");
  EXPECT_EQ(error_reason(engine->submit(request_of(1)).status()), "TENANT_QUOTA");
  EXPECT_TRUE(engine->check_room(2, 0).ok());
  streams.push_back(*engine->submit(request_of(2)));
  gate.open();
  for (const auto& stream : streams) EXPECT_TRUE(drain(*stream).end.status.ok());
  EXPECT_TRUE(engine->check_room(1, 0).ok());
}

TEST(EngineHang, what_has_left_the_inbox_counts_no_more) {
  Gate gate;
  const auto engine = start_engine_with_small_inbox(&gate);
  for (int round = 0; round < 2; ++round) expect_room_for_nine_pictures(*engine, &gate);
}

}  // namespace
}  // namespace cogserve
