// Millions of steps against everything that goes wrong outside, each step checked; and all
// interleavings of a small scope. COGSERVE_SIM_STEPS sets the number of random steps.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <deque>
#include <iostream>
#include <map>
#include <random>
#include <unordered_set>

#include "tests/engine/scheduler_world.hpp"

namespace cogserve {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;

constexpr int kStepsOfSeed = 1000;

// One seed: draws a configuration, its requests and its faults.
class Simulation {
 public:
  explicit Simulation(uint64_t seed) : rng_(seed), world_(draw_config()) {
    arrival_percent_ = pick(2, 60);
    // Once in a while, so that most seeds also see long undisturbed stretches.
    jumps_ = chance(0.1);
  }

  void run() {
    for (int i = 0; i < kStepsOfSeed; ++i) {
      advance_clock();
      while (chance(arrival_percent_ / 100.0)) arrive();
      step(chance(0.001)     ? StepFault::kFailPlan
           : chance(0.00005) ? StepFault::kFailAll
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
    config.max_num_batched_tokens = pick(1, 64);
    config.max_queue_size = chance(0.05) ? 0 : pick(1, 64);
    config.max_model_len = pick(16, 120);
    config.vision_layers = pick(1, 8);
    config.vision_layers_per_step = pick(1, 3);
    config.max_queue_time = milliseconds(pick(100, 5000));
    config.slow_reader_time = milliseconds(pick(20, 400));
    config.eos_ids = {kWorldEos};
    picture_chance_ = pick(0, 2) * 0.3;
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
    int64_t left = 1000000;  // far more than any drawn workload has rows and timeouts
    while (!world_.scheduler().idle()) {
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
  SchedulerWorld world_;
  std::map<uint64_t, Habit> habits_;
  Clock::time_point now_{hours(1000)};
  double arrival_percent_ = 0;
  bool jumps_ = false;
};

uint64_t steps_wanted() {
  const char* const text = std::getenv("COGSERVE_SIM_STEPS");
  return text != nullptr ? std::strtoull(text, nullptr, 10) : 1000000;
}

TEST(SchedulerSimulation, keeps_every_promise_at_every_step_of_random_lives) {
  const uint64_t first_seed = std::getenv("COGSERVE_SIM_SEED")
                                  ? std::strtoull(std::getenv("COGSERVE_SIM_SEED"), nullptr, 10)
                                  : 1;
  WorldCounts total;
  uint64_t seed = first_seed;
  for (; total.steps < steps_wanted(); ++seed) {
    try {
      Simulation simulation(seed);
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
            << " of one request); the oldest waited " << total.oldest_waited << " steps at most\n";
  if (total.steps < 100000) return;  // too few to have seen everything
  EXPECT_EQ(total.most_preemptions, Scheduler::kMaxPreemptions);
  for (const uint64_t seen : {total.refused, total.finished, total.cancelled, total.deadlines,
                              total.queue_timeouts, total.slow_readers, total.numeric_faults,
                              total.step_faults, total.pictures, total.preemptions}) {
    EXPECT_GE(seen, 50u);
  }
}

TEST(SchedulerSimulation, the_same_seed_lives_the_same_life) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    Simulation once(seed), again(seed), other(seed + 1000);
    once.run();
    again.run();
    other.run();
    ASSERT_EQ(once.trace(), again.trace()) << "seed " << seed;
    ASSERT_NE(once.trace(), other.trace()) << "the trace sees nothing";
  }
}

}  // namespace
}  // namespace cogserve
