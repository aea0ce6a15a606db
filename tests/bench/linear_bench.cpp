// Backend::linear for W [14336, 4096] at 1 to 512 rows: against what this machine's memory and
// multipliers can do, measured in the same run, and against OpenBLAS on the same weights in f32;
// and with W in int4 (groups of 128) and int8.
//
//   linear_bench [--threads N] [--tries N] [Google Benchmark's flags]
//
// Every figure is the best of `tries`, because other work on the machine can only slow a run.
#include <benchmark/benchmark.h>

#ifdef COGSERVE_WITH_OPENBLAS
#include <cblas.h>
extern "C" void openblas_set_num_threads(int);
#endif

#include <algorithm>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/backend/cpu/cpu_backend.hpp"
#include "tests/bench/best_reporter.hpp"
#include "tests/bench/flags.hpp"
#include "tests/bench/machine_limits.hpp"
#include "tests/engine/random_weight.hpp"

namespace cogserve {
namespace {

constexpr int64_t kOut = 14336;
constexpr int64_t kIn = 4096;
constexpr int kRows[] = {1, 4, 16, 64, 512};

struct Setup {
  explicit Setup(int threads)
      : backend(threads), bf16_backend(threads, cpu::Products::kBF16), x(512 * kIn), y(512 * kOut) {
    std::mt19937 generator(1);
    std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
    for (float& value : x) value = uniform(generator);
    std::vector<float> w(kOut * kIn);
    for (float& value : w) value = uniform(generator);
    std::vector<uint16_t> halves(w.size());
    for (size_t i = 0; i < w.size(); ++i) halves[i] = to_bfloat16(w[i]).bits;
    bf16 = load(halves.data(), DType::kBF16, backend);
    bf16_pairs = load(halves.data(), DType::kBF16, bf16_backend);
    f32 = load(w.data(), DType::kF32, backend);
    int4 = load({WeightFormat::kInt4, 128});
    int8 = load({WeightFormat::kInt8, kIn});
#ifdef COGSERVE_WITH_OPENBLAS
    dense = std::move(w);
    openblas_set_num_threads(threads);
#endif
  }

  static Weight load(const void* data, DType dtype, CpuBackend& loader) {
    return *loader.load_weight(
        dense_weight({static_cast<const std::byte*>(data), dtype, {kOut, kIn}}));
  }

  Weight load(const testing::WeightKind& kind) {
    return *backend.load_weight(testing::RandomWeight(kind, kOut, kIn, 1).host());
  }

  void linear(const Weight& weight, int rows) { linear(weight, rows, backend); }
  void linear(const Weight& weight, int rows, CpuBackend& by) {
    by.linear(Tensor::matrix(x.data(), DType::kF32, rows, kIn), weight, nullptr,
              Tensor::matrix(y.data(), DType::kF32, rows, kOut));
  }

#ifdef COGSERVE_WITH_OPENBLAS
  void openblas(int rows) {
    if (rows == 1) {
      cblas_sgemv(CblasRowMajor, CblasNoTrans, kOut, kIn, 1.0f, dense.data(), kIn, x.data(), 1,
                  0.0f, y.data(), 1);
    } else {
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, kOut, kIn, 1.0f, x.data(), kIn,
                  dense.data(), kIn, 0.0f, y.data(), kOut);
    }
  }
  std::vector<float> dense;
#endif

  CpuBackend backend;
  CpuBackend bf16_backend;  // that multiplies bf16 by bf16
  std::vector<float> x;
  std::vector<float> y;
  Weight bf16;
  Weight bf16_pairs;  // of bf16_backend
  Weight f32;
  Weight int4;
  Weight int8;
};

std::string name_of(const std::string& kind, int rows) { return kind + "_" + std::to_string(rows); }

template <typename Function>
void add_benchmark(const std::string& kind, int rows, int tries, const Function& function) {
  benchmark::RegisterBenchmark(name_of(kind, rows).c_str(),
                               [=](benchmark::State& state) {
                                 for (auto _ : state) function(rows);
                               })
      ->UseRealTime()
      ->Unit(benchmark::kMillisecond)
      ->MinTime(0.05)
      ->Repetitions(tries);
}

void print_table(const bench::BestReporter& results, double bandwidth, double peak) {
  std::printf("\nW [%d, %d], read bandwidth %.1f GB/s, FMA peak %.1f GFLOP/s\n",
              static_cast<int>(kOut), static_cast<int>(kIn), bandwidth / 1e9, peak / 1e9);
  std::printf("%5s %10s %10s %10s %10s %8s %8s %10s %12s\n", "rows", "bf16 ms", "f32 ms", "BLAS ms",
              "GFLOP/s", "of peak", "of bytes", "vs BLAS", "vs 1 row x n");
  const double one_row = results.seconds(name_of("bf16", 1));
  for (int rows : kRows) {
    const double bf16 = results.seconds(name_of("bf16", rows));
    const double blas = results.seconds(name_of("openblas", rows));
    const double flop = 2.0 * rows * kOut * kIn;
    const double bytes = 2.0 * kOut * kIn;  // of W
    std::printf("%5d %10.2f %10.2f %10.2f %10.1f %7.0f%% %7.0f%% %9.2fx %11.2fx\n", rows,
                bf16 * 1e3, results.seconds(name_of("f32", rows)) * 1e3, blas * 1e3,
                flop / bf16 / 1e9, 100 * flop / bf16 / peak, 100 * bytes / bf16 / bandwidth,
                blas / bf16, rows * one_row / bf16);
  }
}

// Against the peak of f32.
void print_bf16_products_table(const bench::BestReporter& results, double bandwidth, double peak) {
  std::printf("\n%5s %10s %10s %8s %8s %8s\n", "rows", "by bf16 ms", "GFLOP/s", "of peak",
              "of bytes", "vs bf16");
  for (int rows : kRows) {
    const double bf16 = results.seconds(name_of("bf16", rows));
    const double pairs = results.seconds(name_of("bf16_products", rows));
    const double flop = 2.0 * rows * kOut * kIn;
    const double bytes = 2.0 * kOut * kIn;
    std::printf("%5d %10.2f %10.1f %7.0f%% %7.0f%% %7.2fx\n", rows, pairs * 1e3, flop / pairs / 1e9,
                100 * flop / pairs / peak, 100 * bytes / pairs / bandwidth, bf16 / pairs);
  }
}

// Operations on integers, against the peak of f32.
void print_quantized_table(const bench::BestReporter& results, const Setup& setup, double bandwidth,
                           double peak) {
  std::printf("\n%5s %10s %10s %8s %8s %8s %10s %10s\n", "rows", "int4 ms", "GOP/s", "of peak",
              "of bytes", "vs bf16", "int8 ms", "vs bf16");
  for (int rows : kRows) {
    const double bf16 = results.seconds(name_of("bf16", rows));
    const double int4 = results.seconds(name_of("int4", rows));
    const double int8 = results.seconds(name_of("int8", rows));
    const double operations = 2.0 * rows * kOut * kIn;
    const double bytes = static_cast<double>(setup.int4.storage.bytes());
    std::printf("%5d %10.2f %10.1f %7.0f%% %7.0f%% %7.2fx %10.2f %9.2fx\n", rows, int4 * 1e3,
                operations / int4 / 1e9, 100 * operations / int4 / peak,
                100 * bytes / int4 / bandwidth, bf16 / int4, int8 * 1e3, bf16 / int8);
  }
}

// One row's share of the read bandwidth where the memory's speed changes from one second to the
// next: the weight is read and multiplied by turns, and the median of the turns' shares counts.
// (The quantised ones may stay in the last cache.)
void print_turns(Setup& setup, cpu::ThreadPool& pool) {
  constexpr int kTurns = 101;
  const auto share = [&](const Weight& weight) {
    std::vector<double> shares;
    for (int turn = 0; turn < kTurns; ++turn) {
      const double limit = bench::read_rate(pool, weight.storage.data(), weight.storage.bytes());
      const double seconds = bench::best_seconds(1, [&] { setup.linear(weight, 1); });
      shares.push_back(static_cast<double>(weight.storage.bytes()) / seconds / limit);
    }
    std::nth_element(shares.begin(), shares.begin() + kTurns / 2, shares.end());
    return 100 * shares[kTurns / 2];
  };
  std::printf("\n1 row beside reading the same bytes, by turns: bf16 %.0f%%, f32 %.0f%%\n",
              share(setup.bf16), share(setup.f32));
}

int run(int argc, char** argv) {
  const int threads = bench::take_flag(argc, argv, "--threads", 0);
  const int tries = bench::take_flag(argc, argv, "--tries", 5);
  benchmark::Initialize(&argc, argv);
  cpu::ThreadPool pool(threads);
  Setup setup(pool.size());
  std::printf("%s\n", setup.backend.description().c_str());
  const double bandwidth_before = bench::read_bandwidth(pool, tries);
  const double peak_before = bench::fma_peak(pool, tries);
  for (int rows : kRows) {
    add_benchmark("bf16", rows, tries, [&](int n) { setup.linear(setup.bf16, n); });
    add_benchmark("bf16_products", rows, tries,
                  [&](int n) { setup.linear(setup.bf16_pairs, n, setup.bf16_backend); });
    add_benchmark("f32", rows, tries, [&](int n) { setup.linear(setup.f32, n); });
    add_benchmark("int4", rows, tries, [&](int n) { setup.linear(setup.int4, n); });
    add_benchmark("int8", rows, tries, [&](int n) { setup.linear(setup.int8, n); });
#ifdef COGSERVE_WITH_OPENBLAS
    add_benchmark("openblas", rows, tries, [&](int n) { setup.openblas(n); });
#endif
  }
  bench::BestReporter reporter;
  benchmark::RunSpecifiedBenchmarks(&reporter);
  const double bandwidth = std::max(bandwidth_before, bench::read_bandwidth(pool, tries));
  const double peak = std::max(peak_before, bench::fma_peak(pool, tries));
  print_table(reporter, bandwidth, peak);
  print_bf16_products_table(reporter, bandwidth, peak);
  print_quantized_table(reporter, setup, bandwidth, peak);
  print_turns(setup, pool);
  return 0;
}

}  // namespace
}  // namespace cogserve

int main(int argc, char** argv) { return cogserve::run(argc, argv); }
