// Millions of steps against everything that goes wrong outside, each step checked; and what floods
// cost others. COGSERVE_SIM_STEPS sets the number of random steps.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <map>
#include <random>
#include <string>

#include "tests/engine/scheduler_world.hpp"

namespace cogserve {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;

constexpr int kStepsOfSeed = 1000;

// One seed: draws a configuration, its requests and its faults.
class Simulation {
 public:
  Simulation(uint64_t seed, Pace pace) : rng_(seed), world_(draw_config(), pace) {
    arrival_percent_ = pick(2, 60);
    // Once in a while, so that most seeds also see long undisturbed stretches.
    jumps_ = chance(0.1);
  }

  void run() {
    for (int i = 0; i < kStepsOfSeed; ++i) {
      advance_clock();
      while (chance(arrival_percent_ / 100.0)) arrive();
      // After a fault another one soon, so that steps that go alone fail too.
      step(chance(world_.careful() ? 0.2 : 0.001) ? StepFault::kFailPlan
           : chance(0.00005)                      ? StepFault::kFailAll
                                                  : StepFault::kNone);
      act();
    }
    drain();
  }

  const WorldCounts& counts() const { return world_.counts(); }
  uint64_t trace() const { return world_.trace(); }

 private:
  // How a client behaves.
  struct Habit {
    double reads = 1.0;      // chance of reading at a step
    int freezes_after = -1;  // tokens, -1 = never
    int cancels_at = -1;     // its age in steps, -1 = never
    int age = 0;
  };

  int pick(int low, int high) { return std::uniform_int_distribution<int>(low, high)(rng_); }
  bool chance(double p) { return std::bernoulli_distribution(p)(rng_); }

  SchedulerConfig draw_config() {
    SchedulerConfig config;
    const bool tight = chance(0.6);  // where blocks run out
    config.num_blocks = tight ? pick(8, 40) : pick(8, 512);
    config.block_size = tight ? pick(1, 4) : pick(1, 32);
    config.max_num_seqs = pick(1, 16);
    config.max_pictures = pick(1, config.max_num_seqs);
    config.max_num_batched_tokens = pick(1, 64);
    config.max_queue_size = chance(0.05) ? 0 : pick(1, 64);
    config.max_model_len = pick(16, 120);
    config.vision_layers = pick(1, 8);
    config.vision_layers_per_step = pick(1, 3);
    config.max_itl = milliseconds(pick(0, 1) * pick(1, 50));
    config.max_queue_time = milliseconds(pick(100, 5000));
    config.slow_reader_time = milliseconds(pick(20, 400));
    config.eos_ids = {kWorldEos};
    picture_chance_ = pick(0, 2) * 0.3;
    callers_ = pick(0, 4);
    return config;
  }

  void arrive() {
    WorldRequest request;
    request.text_tokens = pick(0, 40);
    request.image_tokens = chance(picture_chance_) ? pick(3, 20) : 0;
    request.max_tokens = chance(0.5) ? pick(1, 10) : pick(1, 60);
    request.ignore_eos = chance(0.5);
    request.stops = chance(0.2);
    request.capacity = pick(1, 64);
    request.caller = static_cast<uint64_t>(pick(0, callers_));
    if (chance(0.05)) request.deadline = now_ + milliseconds(pick(0, 200));
    if (!world_.submit(request, now_).ok()) return;
    Habit habit;
    if (chance(0.05)) habit.cancels_at = pick(0, 80);
    if (chance(0.05)) habit.freezes_after = pick(0, 20);
    if (chance(0.1)) habit.reads = 0.3;
    habits_[world_.clients().back()->id] = habit;
  }

  void advance_clock() {
    now_ += milliseconds(1);
    latest_ = std::max(latest_, now_);
    if (!jumps_ || !chance(0.002)) return;
    chance(0.5) ? now_ += hours(1) : now_ -= hours(1);
  }

  void step(StepFault fault) {
    world_.step(now_, fault, [this] { return chance(0.0005); });
  }

  // The readers' turn.
  void act() {
    for (const auto& client : world_.clients()) {
      Habit& habit = habits_[client->id];
      const bool over = client->sequence == nullptr;
      if (habit.age++ == habit.cancels_at) client->stream->cancel();
      const bool frozen = habit.freezes_after >= 0 && client->received >= habit.freezes_after;
      if (over || (!frozen && chance(habit.reads))) world_.read(*client, 1 << 20);
      if (client->ended) habits_.erase(client->id);
    }
    world_.forget_ended();
  }

  void drain() {
    jumps_ = false;
    now_ = latest_;          // else a lagging reader's time stands still for an hour of steps
    int64_t left = 1000000;  // far more than any drawn workload has rows and timeouts
    while (!world_.idle()) {
      if (left-- == 0) throw WorldError("does not come to rest");
      advance_clock();
      step(StepFault::kNone);
      act();
    }
    act();
    world_.check_at_rest();
  }

  std::mt19937_64 rng_;
  double picture_chance_ = 0;
  int callers_ = 0;  // that have a number; nobody asks, too
  SchedulerWorld world_;
  std::map<uint64_t, Habit> habits_;
  Clock::time_point now_{hours(1000)};
  Clock::time_point latest_ = now_;
  double arrival_percent_ = 0;
  bool jumps_ = false;
};

uint64_t steps_wanted() {
  const char* const text = std::getenv("COGSERVE_SIM_STEPS");
  return text != nullptr ? std::strtoull(text, nullptr, 10) : 1000000;
}

class SchedulerLives : public ::testing::TestWithParam<Pace> {};
INSTANTIATE_TEST_SUITE_P(Paces, SchedulerLives, ::testing::Values(Pace::kInTurn, Pace::kAhead),
                         [](const auto& pace) {
                           return pace.param == Pace::kInTurn ? "in_turn" : "ahead";
                         });

TEST_P(SchedulerLives, keeps_every_promise_at_every_step_of_random_lives) {
  const uint64_t first_seed = std::getenv("COGSERVE_SIM_SEED")
                                  ? std::strtoull(std::getenv("COGSERVE_SIM_SEED"), nullptr, 10)
                                  : 1;
  WorldCounts total;
  uint64_t seed = first_seed;
  for (; total.steps - total.empty_steps < steps_wanted(); ++seed) {
    try {
      Simulation simulation(seed, GetParam());
      simulation.run();
      total.add(simulation.counts());
    } catch (const std::exception& error) {
      FAIL() << "seed " << seed << ": " << error.what()
             << "\nreplay with COGSERVE_SIM_SEED=" << seed << " COGSERVE_SIM_STEPS=1";
    }
  }
  std::cout << "simulated " << total.steps << " steps (" << total.empty_steps << " empty, "
            << total.excused_steps << " held up by lagging readers) over " << seed - first_seed
            << " seeds\n  requests: " << total.submitted << " taken, " << total.refused
            << " refused, " << total.finished << " finished, " << total.cancelled << " cancelled, "
            << total.deadlines << " late, " << total.queue_timeouts << " timed out in the queue, "
            << total.slow_readers << " slow readers, " << total.numeric_faults
            << " numeric faults, " << total.step_faults << " step faults\n  work: " << total.rows
            << " rows, " << total.tokens << " tokens, " << total.pictures << " pictures, "
            << total.preemptions << " preemptions (at most " << total.most_preemptions
            << " of one request); " << total.passed << " times one was held back by its caller's "
            << "share, " << total.turns << " times a picture by another caller's turn; the oldest "
            << "waited " << total.oldest_waited << " steps at most\n";
  // The oldest waits only for younger ones that hold what it lost while its reader lagged, or its
  // caller's share, or the last picture's place: for their last token (60 at most) or their
  // reader's time (400 ms, a step each). A turn of another caller's may come between, and do so
  // again.
  EXPECT_LE(total.oldest_waited, 1000u);
  if (total.steps < 100000) return;  // too few to have seen everything
  EXPECT_EQ(total.most_preemptions, Scheduler::kMaxPreemptions);
  for (const uint64_t seen : {total.refused, total.finished, total.cancelled, total.deadlines,
                              total.slow_readers, total.numeric_faults, total.step_faults,
                              total.pictures, total.preemptions, total.passed, total.turns}) {
    EXPECT_GE(seen, 20u);
  }
  // These come with few seeds, many at once.
  if (total.steps >= 1000000) {
    EXPECT_GE(total.queue_timeouts, 50u);
  }
}

TEST(SchedulerSimulation, the_same_seed_lives_the_same_life) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    const Pace pace = seed % 2 == 0 ? Pace::kInTurn : Pace::kAhead;
    Simulation once(seed, pace), again(seed, pace), other(seed + 1000, pace);
    once.run();
    again.run();
    other.run();
    ASSERT_EQ(once.trace(), again.trace()) << "seed " << seed;
    ASSERT_NE(once.trace(), other.trace()) << "the trace sees nothing";
  }
}

// --- overload ------------------------------------------------------------------------------------

// A pool for a quarter of what runs: how much of the work is done twice.
TEST(SchedulerSimulation, little_work_is_done_twice_when_the_cache_is_four_times_oversubscribed) {
  SchedulerConfig config;
  config.block_size = 4;
  config.max_num_seqs = 16;
  config.num_blocks = 16 * 25 / 4;  // a request ends with 100 tokens
  config.max_num_batched_tokens = 64;
  config.max_model_len = 1000;
  config.max_queue_size = 1000;
  config.max_queue_time = hours(1);
  SchedulerWorld world(config);
  Clock::time_point now{hours(1)};
  constexpr int kRequests = 200;
  for (int i = 0; i < kRequests; ++i) {
    ASSERT_TRUE(world.submit({.text_tokens = 40, .max_tokens = 60, .ignore_eos = true}, now).ok());
  }
  int64_t left = 200000;
  while (!world.idle() && left-- > 0) {
    world.step(now += milliseconds(1));
    for (const auto& client : world.clients()) world.read(*client, 1000);
    world.forget_ended();
  }
  world.check_at_rest();
  const double needed = kRequests * 100.0;
  const double share = needed / static_cast<double>(world.counts().rows);
  std::cout << "4x oversubscribed: " << 100 * share << " % of all rows were useful, "
            << world.counts().preemptions << " preemptions of " << kRequests << " requests, "
            << world.counts().steps << " steps\n";
  EXPECT_GE(share, 0.8);
}

// Steps until eight readers that keep up have all their tokens.
uint64_t steps_for_eight_live_readers(int frozen) {
  SchedulerConfig config;
  config.num_blocks = 1024;
  config.max_num_seqs = 64;
  config.max_model_len = 1000;
  config.slow_reader_time = hours(1);
  SchedulerWorld world(config);
  Clock::time_point now{hours(1)};
  for (int i = 0; i < frozen; ++i) {
    EXPECT_TRUE(world.submit({.text_tokens = 20, .max_tokens = 500, .capacity = 8}, now).ok());
  }
  for (int i = 0; i < 20; ++i) world.step(now += milliseconds(1));
  const uint64_t before = world.counts().steps;
  for (int i = 0; i < 8; ++i) {
    EXPECT_TRUE(world.submit({.text_tokens = 20, .max_tokens = 200, .ignore_eos = true}, now).ok());
  }
  size_t ended = 0;
  for (int i = 0; i < 10000 && ended < 8; ++i) {
    world.step(now += milliseconds(1));
    for (size_t c = frozen; c < world.clients().size(); ++c) {
      auto& client = *world.clients()[c];
      const bool was_ended = client.ended;
      world.read(client, 1000);
      ended += client.ended && !was_ended;
    }
  }
  EXPECT_EQ(ended, 8u);
  return world.counts().steps - before;
}

TEST(SchedulerSimulation, sixty_four_frozen_readers_do_not_hold_up_eight_live_ones) {
  EXPECT_EQ(steps_for_eight_live_readers(64), steps_for_eight_live_readers(0));
}

// Steps until the picture of `caller` has its answer, the worst of several, while caller 1 has
// `flood` pictures under way and sends the next as soon as one ends.
uint64_t steps_for_a_picture_of(uint64_t caller, int flood) {
  SchedulerConfig config;
  config.num_blocks = 200;
  config.block_size = 4;
  config.max_model_len = 200;
  config.vision_layers = 20;
  SchedulerWorld world(config);
  Clock::time_point now{hours(1)};
  const auto ask = [&](uint64_t who, int text) {
    EXPECT_TRUE(world
                    .submit({.text_tokens = text,
                             .image_tokens = 20,
                             .max_tokens = 10,
                             .ignore_eos = true,
                             .caller = who},
                            now)
                    .ok());
  };
  uint64_t most = 0;
  for (int round = 0; round < 20; ++round) {
    const auto step = [&] {
      while (world.clients().size() < static_cast<size_t>(flood)) ask(1, 10 + round % 7);
      world.step(now += milliseconds(1));
      for (const auto& client : world.clients()) world.read(*client, 1000);
    };
    for (int i = 0; i < 100 + round; ++i) step(), world.forget_ended();
    ask(caller, 12);
    const auto& client = *world.clients().back();
    const uint64_t before = world.counts().steps;
    while (!client.ended && world.counts().steps < before + 10000) step();
    EXPECT_TRUE(client.ended);
    most = std::max(most, world.counts().steps - before);
    world.forget_ended();
  }
  return most;
}

TEST(SchedulerSimulation, a_flood_of_one_callers_pictures_costs_another_little) {
  const uint64_t alone = steps_for_a_picture_of(2, 0);
  const uint64_t flooded = steps_for_a_picture_of(2, 48);
  const uint64_t own = steps_for_a_picture_of(1, 48);
  std::cout << "a picture's answer takes " << alone << " steps alone, " << flooded
            << " beside 48 of "
            << "another caller, and " << own << " behind 48 of its own\n";
  EXPECT_LE(flooded, 3 * alone);
  EXPECT_GE(own, 10 * alone);
}

// Preempted at each token in turn (its seat goes to a newcomer while its reader lags), a request
// still says the same: the world checks every token.
TEST(SchedulerSimulation, a_request_preempted_at_any_token_says_the_same) {
  constexpr int kTokens = 24;
  for (const int image_tokens : {0, 6}) {
    for (int at = 1; at < kTokens; ++at) {
      SchedulerConfig config;
      config.num_blocks = 40;
      config.block_size = 4;
      config.max_num_seqs = 1;
      config.max_num_batched_tokens = 5;
      config.max_model_len = 100;
      config.vision_layers = 3;
      SchedulerWorld world(config);
      Clock::time_point now{hours(1)};
      ASSERT_TRUE(world
                      .submit({.text_tokens = 9,
                               .image_tokens = image_tokens,
                               .max_tokens = kTokens,
                               .ignore_eos = true,
                               .capacity = at},
                              now)
                      .ok());
      for (int i = 0; i < 100; ++i) world.step(now += milliseconds(1));
      ASSERT_TRUE(world.submit({.text_tokens = 1, .max_tokens = 2}, now).ok());
      for (int i = 0; i < 10; ++i) world.step(now += milliseconds(1));
      for (int i = 0; i < 100; ++i) {
        world.step(now += milliseconds(1));
        for (const auto& client : world.clients()) world.read(*client, 1000);
      }
      ASSERT_EQ(world.clients().front()->received, kTokens);
      ASSERT_EQ(world.counts().preemptions, 1u) << "at token " << at;
      world.forget_ended();
      world.check_at_rest();
    }
  }
}

}  // namespace
}  // namespace cogserve
