// Dense attention of a picture and paged decoding, against what this machine's multipliers and
// memory can do, measured in the same run.
//
//   attention_bench [--threads N] [--tries N]
//
// Every figure is the best of `tries`, because other work on the machine can only slow a run.
#include <cmath>
#include <cstdio>
#include <numeric>
#include <random>
#include <vector>

#include "engine/backend/cpu/cpu_backend.hpp"
#include "tests/bench/flags.hpp"
#include "tests/bench/machine_limits.hpp"

namespace cogserve {
namespace {

std::vector<float> random_values(size_t n) {
  std::mt19937 generator(1);
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  std::vector<float> values(n);
  for (float& value : values) value = uniform(generator);
  return values;
}

// A picture of 32 x 32 patches and the class row, heads as in EVA2-CLIP-E.
void bench_dense(CpuBackend& backend, int tries, double peak) {
  constexpr int kRows = 1025, kHeads = 16, kHeadDim = 112, kWidth = kHeads * kHeadDim;
  std::vector<float> qkv = random_values(size_t{kRows} * 3 * kWidth);
  std::vector<float> y(size_t{kRows} * kWidth);
  const double seconds = bench::best_seconds(tries, [&] {
    backend.dense_attention(Tensor::matrix(qkv.data(), DType::kF32, kRows, 3 * kWidth), kHeads,
                            kHeadDim, 1.0f / std::sqrt(112.0f),
                            Tensor::matrix(y.data(), DType::kF32, kRows, kWidth));
  });
  const double flop = 4.0 * kRows * kRows * kWidth;
  std::printf("dense  %4d rows, %d heads of %d: %8.2f ms, %6.1f GFLOP/s, %3.0f%% of peak\n", kRows,
              kHeads, kHeadDim, seconds * 1e3, flop / seconds / 1e9, 100 * flop / seconds / peak);
}

// The Llama-3-8B shape; `tokens` consecutive rows at the end of each sequence's context.
void bench_paged(CpuBackend& backend, int tries, int sequences, int tokens, double bandwidth,
                 double peak) {
  constexpr int kContext = 2400, kHeads = 32, kKvHeads = 8, kHeadDim = 128, kBlock = 16;
  constexpr int kBlocks = kContext / kBlock;
  constexpr int kWidth = kHeads * kHeadDim;
  const size_t cache = size_t{kBlocks} * sequences * kKvHeads * kBlock * kHeadDim;
  // As the engine has it: in memory of the backend, which is on huge pages.
  const Buffer keys = *backend.allocate(cache * sizeof(float));
  const Buffer values = *backend.allocate(cache * sizeof(float));
  const std::vector<float> content = random_values(cache);
  for (const Buffer* buffer : {&keys, &values}) {
    backend.upload(content.data(), Tensor::matrix(buffer->data(), DType::kF32, 1, cache));
  }
  const KvLayer kv{keys.data(), values.data(), DType::kF32, kBlocks * sequences,
                   kKvHeads,    kBlock,        kHeadDim};
  std::vector<int32_t> table(kBlocks * sequences);
  std::iota(table.begin(), table.end(), 0);
  std::shuffle(table.begin(), table.end(), std::mt19937(2));
  std::vector<AttentionRun> runs;
  for (int i = 0; i < sequences; ++i) {
    runs.push_back({i * tokens, tokens, kContext - tokens, i * kBlocks});
  }
  const int rows = sequences * tokens;
  std::vector<float> q = random_values(size_t{kWidth} * rows), y(q.size());
  const double seconds = bench::best_seconds(tries, [&] {
    backend.paged_attention(Tensor::matrix(q.data(), DType::kF32, rows, kWidth), kHeads, runs,
                            table, kv, 1.0f / std::sqrt(128.0f),
                            Tensor::matrix(y.data(), DType::kF32, rows, kWidth));
  });
  const double keys_seen = kContext - (tokens - 1) / 2.0;  // of an average row
  const double flop = 4.0 * rows * keys_seen * kWidth;
  const double bytes = 2.0 * sizeof(float) * static_cast<double>(cache);
  std::printf(
      "paged  %2d x %3d rows at %d keys: %10.2f ms, %6.1f GFLOP/s, %3.0f%% of peak, "
      "%5.1f GB/s, %3.0f%% of bandwidth\n",
      sequences, tokens, kContext, seconds * 1e3, flop / seconds / 1e9, 100 * flop / seconds / peak,
      bytes / seconds / 1e9, 100 * bytes / seconds / bandwidth);
}

int run(int argc, char** argv) {
  const int threads = bench::take_flag(argc, argv, "--threads", 0);
  const int tries = bench::take_flag(argc, argv, "--tries", 5);
  cpu::ThreadPool pool(threads);
  CpuBackend backend(threads);
  const double bandwidth = bench::read_bandwidth(pool, tries);
  const double peak = bench::fma_peak(pool, tries);
  std::printf("%s, read bandwidth %.1f GB/s, FMA peak %.1f GFLOP/s\n",
              backend.description().c_str(), bandwidth / 1e9, peak / 1e9);
  bench_dense(backend, tries, peak);
  bench_paged(backend, tries, 1, 1, bandwidth, peak);
  bench_paged(backend, tries, 16, 1, bandwidth, peak);
  bench_paged(backend, tries, 1, 256, bandwidth, peak);
  return 0;
}

}  // namespace
}  // namespace cogserve

int main(int argc, char** argv) { return cogserve::run(argc, argv); }
