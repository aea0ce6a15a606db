// Decode throughput: whole steps of the engine (schedule, batch, forward, greedy sampling, commit,
// streams read) with 1 to 32 sequences, at the layer shapes of Llama 3 8B, which are those of the
// model's language expert, with random bf16 weights, or with int4 ones and an int8 head.
//
//   decode_bench [--threads N] [--tries N] [--layers N] [--bf16-products 1] [--int4 1]
//                [Google Benchmark's flags]
//
// Prompts are not computed: keys and values are random numbers from the start, which costs a
// decode step the same. Every figure is the best of `tries`.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/backend/device_traits.hpp"
#include "engine/base/check.hpp"
#include "engine/model/dummy_weights.hpp"
#include "engine/model/quantize.hpp"
#include "engine/model/weights.hpp"
#include "engine/run/model_runner.hpp"
#include "engine/schedule/scheduler.hpp"
#include "tests/bench/best_reporter.hpp"
#include "tests/bench/flags.hpp"
#include "tests/bench/machine_limits.hpp"

namespace cogserve {
namespace {

constexpr int kSequences[] = {1, 4, 8, 16, 32};
constexpr int kMaxSequences = 32;
constexpr int kPromptTokens = 119;
constexpr int kSteps = 16;  // timed; contexts of 121 to 136 tokens, 128 on average
constexpr int kBlockSize = 16;
constexpr int kBlocksPerSequence = 10;

ModelConfig make_config(int layers) {
  ModelConfig config;
  config.layers = layers;
  config.hidden = 4096;
  config.heads = 32;
  config.kv_heads = 8;
  config.intermediate = 14336;
  config.vocab = 32000;
  config.max_positions = 2048;
  config.eos_ids = {1};
  config.dtype = "bfloat16";
  // The smallest tower there can be: no picture comes.
  config.vision = {
      .layers = 1, .hidden = 16, .heads = 1, .intermediate = 16, .patch = 14, .image_size = 28};
  return config;
}

// What a step reads: the language expert of each layer, and the head.
struct StepWork {
  double bytes = 0.0;     // of weights
  double elements = 0.0;  // of weights: two operations each for a sequence
};

StepWork work_per_step(const DeviceTraits& traits, const ModelConfig& config,
                       const WeightFormats& formats) {
  StepWork work;
  const auto add = [&](WeightFormat format, int times, int64_t out, int64_t in) {
    const HostWeight form = weight_form(format, DType::kBF16, out, in);
    work.bytes += static_cast<double>(times) * static_cast<double>(traits.weight_bytes(form));
    work.elements += static_cast<double>(times) * static_cast<double>(out * in);
  };
  add(formats.decoder, config.layers, config.qkv_width(), config.hidden);
  add(formats.decoder, config.layers, config.hidden, config.hidden);
  add(formats.decoder, 2 * config.layers, config.intermediate, config.hidden);
  add(formats.decoder, config.layers, config.hidden, config.intermediate);
  add(formats.head, 1, config.vocab, config.hidden);
  return work;
}

template <typename T>
T expect(absl::StatusOr<T> value) {
  check(value.ok(), value.status().ToString().c_str());
  return *std::move(value);
}

KvCache make_kv_cache(Backend* backend, const ModelConfig& config) {
  KvCache cache =
      expect(KvCache::create(backend, config, kMaxSequences * kBlocksPerSequence, kBlockSize));
  std::minstd_rand generator(1);
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  for (const KvLayer& layer : cache.layers()) {
    check(layer.dtype == DType::kF32, "the CPU backend keeps keys and values in f32");
    const size_t count =
        size_t{1} * layer.num_blocks * layer.kv_heads * layer.block_size * layer.head_dim;
    for (void* array : {layer.keys, layer.values}) {
      for (size_t i = 0; i < count; ++i) static_cast<float*>(array)[i] = uniform(generator);
    }
  }
  return cache;
}

ModelRunner make_runner(Backend* backend, const ModelConfig& config, const WeightFormats& formats) {
  DummyWeights source(1, DType::kBF16);
  ModelWeights weights = expect(load_weights(backend, config, &source, nullptr, {formats}));
  Decoder decoder = expect(Decoder::create(backend, config, std::move(weights.decoder),
                                           kMaxSequences, kMaxSequences, RopeDtype::kAuto));
  VisionTower tower = expect(VisionTower::create(backend, config, std::move(weights.vision)));
  return ModelRunner(backend, config, std::move(decoder), std::move(tower),
                     make_kv_cache(backend, config),
                     expect(FeaturePool::create(backend, config, 1)), kBlockSize);
}

// Sequences that decode side by side.
class DecodeLoad {
 public:
  DecodeLoad(ModelRunner* runner, int sequences)
      : runner_(*runner),
        scheduler_({.num_blocks = kMaxSequences * kBlocksPerSequence,
                    .block_size = kBlockSize,
                    .max_model_len = kBlocksPerSequence * kBlockSize,
                    .max_num_seqs = kMaxSequences,
                    .max_num_batched_tokens = kMaxSequences * (kPromptTokens + 1)}) {
    for (int i = 0; i < sequences; ++i) add(i);
    skip_prefill();
    step();  // the first reads everything into the caches that it fits
  }

  void step() {
    const Plan plan = scheduler_.schedule(Clock::now());
    check(plan.chunks.size() == streams_.size(), "every sequence decodes in every step");
    runner_.start(plan);
    scheduler_.commit(plan, runner_.collect(), Clock::now());
    for (const auto& stream : streams_) benchmark::DoNotOptimize(stream->pop());
  }

 private:
  void add(int index) {
    auto sequence = std::make_unique<Sequence>();
    sequence->id = index + 1;
    std::vector<int32_t> text_ids(kPromptTokens - 1);
    for (int32_t& id : text_ids) id = 2 + index;
    sequence->layout = make_token_layout(0, 0, 0, text_ids);
    sequence->request.sampling.temperature = 0.0f;
    sequence->request.ignore_eos = true;
    sequence->request.max_tokens = kSteps + 2;
    sequence->stream = std::make_shared<TokenStream>(256);
    streams_.push_back(sequence->stream);
    const absl::Status status = scheduler_.add(std::move(sequence), Clock::now());
    check(status.ok(), status.ToString().c_str());
  }

  // All prompts in one plan, committed as if it had run.
  void skip_prefill() {
    const Plan plan = scheduler_.schedule(Clock::now());
    std::vector<SampledToken> sampled(plan.chunks.size());
    for (SampledToken& token : sampled) token.id = 2;
    scheduler_.commit(plan, sampled, Clock::now());
  }

  ModelRunner& runner_;
  Scheduler scheduler_;
  std::vector<std::shared_ptr<TokenStream>> streams_;
};

std::string name_of(int sequences) { return "decode_" + std::to_string(sequences); }

void add_benchmark(ModelRunner* runner, int sequences, double bytes, double bandwidth, int tries) {
  const auto decode = [=](benchmark::State& state) {
    DecodeLoad load(runner, sequences);
    for (auto _ : state) load.step();
    using benchmark::Counter;
    state.counters["tokens/s"] = Counter(sequences, Counter::kIsIterationInvariantRate);
    state.counters["weights_bytes/s"] = Counter(bytes, Counter::kIsIterationInvariantRate);
    state.counters["of_bandwidth"] = Counter(bytes / bandwidth, Counter::kIsIterationInvariantRate);
  };
  benchmark::RegisterBenchmark(name_of(sequences).c_str(), decode)
      ->UseRealTime()
      ->Unit(benchmark::kMillisecond)
      ->Iterations(kSteps)
      ->Repetitions(tries);
}

void print_table(const bench::BestReporter& results, const std::string& what, const StepWork& work,
                 double bandwidth, double peak) {
  const double bytes = work.bytes;
  std::printf("\n%s, %.2f GB of weights a step, read bandwidth %.1f GB/s, FMA peak %.1f GFLOP/s\n",
              what.c_str(), bytes / 1e9, bandwidth / 1e9, peak / 1e9);
  std::printf("%9s %10s %10s %10s %8s %8s %11s\n", "sequences", "ms a step", "tokens/s", "GB/s",
              "of bytes", "of peak", "vs 1 stream");
  const double one = results.seconds(name_of(1));
  for (int sequences : kSequences) {
    const double seconds = results.seconds(name_of(sequences));
    if (seconds == 0.0) continue;  // filtered out
    std::printf("%9d %10.1f %10.2f %10.1f %7.0f%% %7.0f%% %10.2fx\n", sequences, seconds * 1e3,
                sequences / seconds, bytes / seconds / 1e9, 100 * bytes / seconds / bandwidth,
                200 * sequences * work.elements / seconds / peak, sequences * one / seconds);
  }
}

int run(int argc, char** argv) {
  const int threads = bench::take_flag(argc, argv, "--threads", 0);
  const int tries = bench::take_flag(argc, argv, "--tries", 2);
  const ModelConfig config = make_config(bench::take_flag(argc, argv, "--layers", 4));
  WeightFormats formats;
  const bool int4 = bench::take_flag(argc, argv, "--int4", 0) != 0;
  if (int4) {
    formats = {.decoder = WeightFormat::kInt4, .head = WeightFormat::kInt8};
  }
  const bool bf16_products = bench::take_flag(argc, argv, "--bf16-products", 0) != 0;
  benchmark::Initialize(&argc, argv);
  const auto backend = expect(make_backend("cpu", threads, bf16_products));
  std::printf("%s\n", backend->description().c_str());
  cpu::ThreadPool pool(threads);
  const double bandwidth = bench::read_bandwidth(pool, 5);
  const double peak = bench::fma_peak(pool, 5);
  ModelRunner runner = make_runner(backend.get(), config, formats);
  const StepWork work = work_per_step(expect(device_traits("cpu")), config, formats);
  for (int sequences : kSequences) {
    add_benchmark(&runner, sequences, work.bytes, bandwidth, tries);
  }
  bench::BestReporter reporter;
  benchmark::RunSpecifiedBenchmarks(&reporter);
  const std::string what =
      std::to_string(config.layers) + " layers, " + (int4 ? "int4 with an int8 lm_head" : "bf16");
  print_table(reporter, what, work, std::max(bandwidth, bench::read_bandwidth(pool, 5)),
              std::max(peak, bench::fma_peak(pool, 5)));
  return 0;
}

}  // namespace
}  // namespace cogserve

int main(int argc, char** argv) { return cogserve::run(argc, argv); }
