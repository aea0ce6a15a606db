// Steps per second of the scheduler: schedule + commit, with streams that are read.
#include <benchmark/benchmark.h>

#include <chrono>
#include <memory>
#include <vector>

#include "engine/schedule/scheduler.hpp"

namespace cogserve {
namespace {

// `running` sequences decode for ever (each that ends is replaced), `queued` more wait.
class Load {
 public:
  Load(int running, int queued)
      : scheduler_({.num_blocks = 64 * 64,
                    .max_model_len = 8192,
                    .max_num_seqs = running,
                    .max_queue_size = running + queued + 1,
                    .max_queue_time = std::chrono::hours(1)}) {
    for (int i = 0; i < running + queued; ++i) add();
  }

  void step() {
    now_ += std::chrono::microseconds(100);
    const Plan plan = scheduler_.schedule(now_);
    sampled_.resize(plan.chunks.size());
    size_t samples = 0;
    for (const ChunkWork& chunk : plan.chunks) samples += chunk.samples;
    scheduler_.commit(plan, std::span(sampled_).first(samples), now_);
    for (const ChunkWork& chunk : plan.chunks) {
      benchmark::DoNotOptimize(chunk.sequence->stream->pop());
    }
    rows_ += plan.chunks.size();
    for (const auto& ended : scheduler_.take_finished()) {
      benchmark::DoNotOptimize(ended.get());
      add();
    }
  }

  uint64_t rows() const { return rows_; }

 private:
  void add() {
    auto sequence = std::make_unique<Sequence>();
    sequence->id = next_id_++;
    sequence->layout = make_token_layout(1, 2, 0, std::vector<int32_t>(50, 3));
    // Lengths differ, so that not all end in one step.
    sequence->request.max_tokens = 200 + static_cast<int>(sequence->id % 64) * 8;
    sequence->stream = std::make_shared<TokenStream>(256);
    scheduler_.add(std::move(sequence), now_).IgnoreError();
  }

  Scheduler scheduler_;
  Clock::time_point now_{std::chrono::hours(1)};
  std::vector<SampledToken> sampled_;
  uint64_t next_id_ = 1;
  uint64_t rows_ = 0;
};

void schedule_and_commit(benchmark::State& state) {
  Load load(static_cast<int>(state.range(0)), static_cast<int>(state.range(1)));
  for (int i = 0; i < 100; ++i) load.step();  // past the first prefills
  const uint64_t before = load.rows();
  for (auto _ : state) load.step();
  state.counters["steps/s"] =
      benchmark::Counter(static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
  state.counters["rows/step"] =
      static_cast<double>(load.rows() - before) / static_cast<double>(state.iterations());
}
BENCHMARK(schedule_and_commit)
    ->ArgNames({"running", "queued"})
    ->Args({1, 0})
    ->Args({16, 0})
    ->Args({64, 0})
    ->Args({64, 256});

}  // namespace
}  // namespace cogserve

BENCHMARK_MAIN();
