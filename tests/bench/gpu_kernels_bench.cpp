// Every family of kernels at the model's shapes, by CUDA events, against what this GPU's memory and
// tensor cores do in the same run: a large copy on the device, and a large product by cuBLASLt.
//
//   gpu_kernels_bench [--out FILE.json] [--tries N] [--probe 1]
//
// --probe only says which GPU there is, and at which place of the bus.
//
// Inputs that a step would not find in the cache are taken from a pool larger than any L2, at
// another place each time. Every figure is the best of `tries`. What takes less than twice as long
// as a launch with nothing to do is marked: it says how fast kernels are launched, and no share of
// a limit. Exits with 3 where there is no GPU.
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "engine/backend/cuda/attention_plan.hpp"
#include "engine/backend/cuda/dense_attention.hpp"
#include "engine/backend/cuda/elementwise.hpp"
#include "engine/backend/cuda/norms.hpp"
#include "engine/backend/cuda/own_memory.hpp"
#include "engine/backend/cuda/rope_kv.hpp"
#include "engine/backend/cuda/sampling.hpp"
#include "tests/bench/flags.hpp"
#include "tests/bench/gpu_kernels_bench.hpp"

namespace cogserve::cuda {

namespace {

constexpr int64_t kContext = 2400;
constexpr int kBlockSize = 16;

}  // namespace

KernelBench::KernelBench(int tries, bench::GpuResults* results)
    : tries_(tries), results_(*results), matmul_(DType::kBF16) {
  pool_ = allocate_device(kPoolBytes);
  output_ = allocate_device(kOutputBytes);
  unpacked_ = allocate_device(kUnpackedBytes);
  fill_pool();
}

void KernelBench::fill_pool() {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<BFloat16> values((size_t{32} << 20) / sizeof(BFloat16));
  for (BFloat16& value : values) value = to_bfloat16(normal(random));
  const size_t bytes = values.size() * sizeof(BFloat16);
  for (size_t at = 0; at < kPoolBytes; at += bytes) {
    check_cuda(cudaMemcpy(static_cast<std::byte*>(pool_.get()) + at, values.data(), bytes,
                          cudaMemcpyHostToDevice),
               "cudaMemcpy");
  }
  wait_for_copies();
}

double KernelBench::time_calls(const std::function<void(int)>& body) const {
  cudaEvent_t begin, end;
  check_cuda(cudaEventCreate(&begin), "cudaEventCreate");
  check_cuda(cudaEventCreate(&end), "cudaEventCreate");
  int call = 0;
  const auto batch = [&](int calls) {
    check_cuda(cudaEventRecord(begin, stream_.get()), "cudaEventRecord");
    for (int i = 0; i < calls; ++i) body(call++);
    check_cuda(cudaEventRecord(end, stream_.get()), "cudaEventRecord");
    check_cuda(cudaEventSynchronize(end), "cudaEventSynchronize");
    float ms = 0.0f;
    check_cuda(cudaEventElapsedTime(&ms, begin, end), "cudaEventElapsedTime");
    return ms * 1e-3 / calls;
  };
  batch(1);  // what happens once: choices, attributes
  constexpr double kBatchSeconds = 10e-3;
  const int calls = std::clamp(static_cast<int>(kBatchSeconds / batch(2)), 2, 500);
  double best = std::numeric_limits<double>::max();
  for (int i = 0; i < tries_; ++i) best = std::min(best, batch(calls));
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return best;
}

void KernelBench::report(const std::string& name, double flop, double bytes,
                         const std::function<void(int)>& body) {
  const double seconds = time_calls(body);
  const double flops = flop / seconds;
  const double bandwidth = bytes / seconds;
  if (seconds < 2 * launch_seconds_) {
    results_.add(name, {{"us", seconds * 1e6}, {"launch_bound", 1}});
    return;
  }
  results_.add(name, {{"us", seconds * 1e6},
                      {"tflop_per_s", flops / 1e12},
                      {"gb_per_s", bandwidth / 1e9},
                      {"of_matmul", flops / peak_flops_},
                      {"of_copy", bandwidth / peak_bandwidth_}});
}

void KernelBench::measure_limits() {
  constexpr size_t kBytes = size_t{1} << 30;
  constexpr int64_t kSide = 8192;
  const double copy = time_calls([&](int) {
    check_cuda(cudaMemcpyAsync(output_.get(), pool_.get(), kBytes, cudaMemcpyDeviceToDevice,
                               stream_.get()),
               "cudaMemcpyAsync");
  });
  const double multiply = time_calls([&](int i) {
    check(matmul_.run(input(2 * i, kSide, kSide), input(2 * i + 1, kSide, kSide), nullptr,
                      output(kSide, kSide), stream_),
          "cuBLASLt has an algorithm");
  });
  peak_bandwidth_ = 2.0 * kBytes / copy;
  peak_flops_ = 2.0 * kSide * kSide * kSide / multiply;
  launch_seconds_ = time_calls([&](int) { add(input(0, 1, 8), output(1, 8), stream_.get()); });
  results_.add("limits", {{"copy_gb_per_s", peak_bandwidth_ / 1e9},
                          {"matmul_tflop_per_s", peak_flops_ / 1e12},
                          {"launch_us", launch_seconds_ * 1e6}});
}

void KernelBench::attention() {
  constexpr int64_t kRows = 9217, kTowerHeads = 16, kTowerHeadDim = 112;
  constexpr int64_t kWidth = kTowerHeads * kTowerHeadDim;
  const Tensor y = output(kRows, kWidth);
  report("dense_attention_9217", 4.0 * kRows * kRows * kWidth, 2.0 * kRows * 4 * kWidth,
         [&](int i) {
           dense_attention(input(i, kRows, 3 * kWidth), kTowerHeads, kTowerHeadDim,
                           1.0f / std::sqrt(112.0f), y, stream_.get());
         });
  paged_prefill(0, 2356);
  paged_prefill(1844, 512);
  for (const int sequences : {1, 8, 32, 64}) paged_decode(sequences);
}

// All but the keys and values; q lies in the beginning of the pool.
PagedAttention KernelBench::paged(int64_t rows, const std::vector<int32_t>& tables) {
  PagedAttention attention;
  attention.q = input(0, rows, int64_t{kHeads} * kHeadDim);
  attention.y = output(rows, int64_t{kHeads} * kHeadDim);
  attention.heads = kHeads;
  attention.kv = {nullptr, nullptr, DType::kBF16, kKvHeads, kBlockSize, kHeadDim};
  attention.block_tables = on_device(tables);
  attention.scale = 1.0f / std::sqrt(128.0f);
  return attention;
}

// With keys and values of the i-th call, each block after block: a layer's, as a step finds them
// after all the other layers'.
PagedAttention KernelBench::at_call(PagedAttention attention, int i, int64_t blocks) const {
  const int64_t cache = blocks * kKvHeads * kBlockSize * kHeadDim;
  attention.kv.keys = input(2 * i, 1, cache).data;
  attention.kv.values = input(2 * i + 1, 1, cache).data;
  return attention;
}

void KernelBench::paged_prefill(int64_t first, int64_t count) {
  std::vector<int32_t> table((first + count + kBlockSize - 1) / kBlockSize);
  std::iota(table.begin(), table.end(), 0);
  std::shuffle(table.begin(), table.end(), std::mt19937(2));
  const auto blocks = static_cast<int64_t>(table.size());
  const PagedAttention attention = paged(count, table);
  const PlannedRun run{0, static_cast<int>(count), static_cast<int>(first), 0};
  AttentionPlan plan;
  plan_attention({&run, 1}, kPrefillRows / (kHeads / kKvHeads), 1, &plan);
  const PrefillTile* const tiles = on_device(plan.tiles);
  const double pairs = count * (first + (count + 1) / 2.0);
  report("paged_prefill_" + std::to_string(count) + "_from_" + std::to_string(first),
         4.0 * pairs * kHeads * kHeadDim, 4.0 * (first + count) * kKvHeads * kHeadDim, [&](int i) {
           attend_prefill(at_call(attention, i, blocks), tiles, static_cast<int>(plan.tiles.size()),
                          stream_.get());
         });
}

namespace {

int processors() {
  int device = 0;
  int count = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device),
             "cudaDeviceGetAttribute");
  return count;
}

}  // namespace

void KernelBench::paged_decode(int sequences) {
  constexpr int64_t kBlocks = kContext / kBlockSize;
  std::vector<int32_t> tables(sequences * kBlocks);
  std::iota(tables.begin(), tables.end(), 0);
  std::shuffle(tables.begin(), tables.end(), std::mt19937(2));
  const PagedAttention attention = paged(sequences, tables);
  std::vector<PlannedRun> runs;
  for (int i = 0; i < sequences; ++i) {
    runs.push_back({i, 1, static_cast<int>(kContext) - 1, static_cast<int>(i * kBlocks)});
  }
  AttentionPlan plan;
  plan_attention(runs, kPrefillRows / (kHeads / kKvHeads),
                 static_cast<int>(kAttentionScratchBytes / split_bytes(kHeads, kHeadDim)), &plan);
  const DecodeSplit* const splits = on_device(plan.splits);
  const DecodeMerge* const merges = on_device(plan.merges);
  std::vector<int32_t> counts;
  for (const DecodeWave& wave : plan.waves) counts.push_back(wave.splits);
  const int32_t* const device_counts = on_device(counts);
  std::vector<DecodeWaveArrays> waves;
  for (const DecodeWave& wave : plan.waves) {
    waves.push_back({splits + wave.split_begin, device_counts + waves.size(),
                     merges + wave.merge_begin, wave.merges,
                     split_grid({kHeads, kKvHeads, kHeadDim}, processors())});
  }
  arrays_.push_back(allocate_device(kAttentionScratchBytes));
  auto* const scratch = static_cast<float*>(arrays_.back().get());
  report("paged_decode_" + std::to_string(sequences),
         4.0 * sequences * kContext * kHeads * kHeadDim,
         4.0 * sequences * kContext * kKvHeads * kHeadDim, [&](int i) {
           const PagedAttention of_call = at_call(attention, i, sequences * kBlocks);
           for (const DecodeWaveArrays& wave : waves) {
             attend_decode(of_call, wave, scratch, stream_.get());
           }
         });
}

void KernelBench::rows() {
  const auto matrix_bytes = [](int64_t rows, int64_t cols) { return 2.0 * rows * cols; };
  const Tensor norm = input(0, 1, 4096, DType::kF32);
  const Tensor tower_norm = input(0, 1, 1792, DType::kF32);
  for (const int64_t rows : {1, 64, 512}) {
    const std::string suffix = "_" + std::to_string(rows);
    report("rms_norm" + suffix, 0, 2 * matrix_bytes(rows, 4096), [&](int i) {
      rms_norm(input(i, rows, 4096), norm, 1e-5f, output(rows, 4096), stream_.get());
    });
    report("add_rms_norm" + suffix, 0, 4 * matrix_bytes(rows, 4096), [&](int i) {
      const Tensor x = input(i, rows, 4096);
      add_rms_norm(x, norm, 1e-5f, output(rows, 4096, DType::kBF16, i), x, stream_.get());
    });
    report("add" + suffix, 0, 3 * matrix_bytes(rows, 4096),
           [&](int i) { add(input(i, rows, 4096), output(rows, 4096), stream_.get()); });
    report("silu_mul" + suffix, 0, 3 * matrix_bytes(rows, 14336), [&](int i) {
      silu_mul(input(2 * i, rows, 14336), input(2 * i + 1, rows, 14336), output(rows, 14336),
               stream_.get());
    });
    std::vector<int32_t> ids(rows), positions(rows);
    std::vector<int64_t> slots(rows);
    std::iota(ids.begin(), ids.end(), 0);
    std::shuffle(ids.begin(), ids.end(), std::mt19937(2));
    std::iota(positions.begin(), positions.end(), 0);
    std::iota(slots.begin(), slots.end(), 0);
    const int32_t* const device_ids = on_device(ids);
    report("embed" + suffix, 0, 2 * matrix_bytes(rows, 4096), [&](int i) {
      copy_rows(input(i, rows, 4096), {device_ids}, output(rows, 4096), stream_.get());
    });
    const int32_t* const device_positions = on_device(positions);
    const int64_t* const device_slots = on_device(slots);
    const PagedKv kv{output(1, 1).data, output(1, 1).row<BFloat16>(0) + (64 << 20),
                     DType::kBF16,      kKvHeads,
                     kBlockSize,        kHeadDim};
    const Tensor table = input(1, 8192, kHeadDim / 2, DType::kF32);
    // q and k are read and written, v is read and copied.
    report("rope_and_store_kv" + suffix, 0, 2 * matrix_bytes(rows, 6144), [&](int i) {
      rope_and_store_kv(input(i, rows, 6144), kHeads, device_positions, device_slots, table, table,
                        kv, stream_.get());
    });
    fill_pool();  // what was rotated again and again may be anything
  }
  report("add_layer_norm_9217", 0, 3 * matrix_bytes(9217, 1792), [&](int i) {
    add_layer_norm(input(i, 9217, 1792), tower_norm, tower_norm, 1e-6f, output(9217, 1792),
                   stream_.get());
  });
  report("gelu_1024", 0, 2 * matrix_bytes(1024, 15360),
         [&](int i) { gelu(output(1024, 15360, DType::kBF16, i), stream_.get()); });
}

void KernelBench::pictures() {
  constexpr int64_t kSize = 1344, kGrid = 96;
  report("extract_patches", 0, 6.0 * 3 * kSize * kSize, [&](int i) {
    extract_patches(input(i, 3, kSize * kSize, DType::kF32), kSize, 14, output(kGrid * kGrid, 588),
                    stream_.get());
  });
  report("merge_2x2", 0, 4.0 * kGrid * kGrid * 1792, [&](int i) {
    merge_2x2(input(i, kGrid * kGrid, 1792), kGrid, output(kGrid * kGrid / 4, 4 * 1792),
              stream_.get());
  });
}

void KernelBench::sampling(const char* name, float temperature) {
  constexpr int64_t kRows = 64, kVocab = 128256;
  constexpr int kLogits = 12;  // together larger than any L2
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0.0f, 2.0f);
  std::vector<float> logits(kRows * kVocab);
  for (float& value : logits) value = normal(random);
  std::vector<SampleTask> tasks(kRows);
  for (int i = 0; i < kRows; ++i) {
    tasks[i].temperature = temperature;
    tasks[i].top_p = 0.9f;
    tasks[i].seed = i;
  }
  std::vector<Tensor> matrices;
  for (int i = 0; i < kLogits; ++i) {
    matrices.push_back(
        Tensor::matrix(const_cast<float*>(on_device(logits)), DType::kF32, kRows, kVocab));
  }
  const SampleTask* const device_tasks = on_device(tasks);
  auto* const results = reinterpret_cast<SampleResult*>(output_.get());
  auto* const drawn_ids = reinterpret_cast<int32_t*>(results + kRows);
  report(name, 0, 4.0 * kRows * kVocab, [&](int i) {
    sample(matrices[i % kLogits], device_tasks, nullptr, nullptr, nullptr, results, drawn_ids,
           stream_.get());
  });
}

namespace {

int run(int argc, char** argv) {
  const std::string out = bench::take_text(argc, argv, "--out", "");
  const int tries = bench::take_flag(argc, argv, "--tries", 5);
  const bool probe = bench::take_flag(argc, argv, "--probe", 0) != 0;
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess || devices == 0) {
    std::fprintf(stderr, "no CUDA device: %s\n", cudaGetErrorString(error));
    return bench::kNoDevice;
  }
  cudaDeviceProp properties;
  check_cuda(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  std::printf("%s, sm_%d%d, %04x:%02x:%02x.0\n", properties.name, properties.major,
              properties.minor, properties.pciDomainID, properties.pciBusID,
              properties.pciDeviceID);
  if (probe) return 0;
  bench::GpuResults results(out);
  KernelBench bench(tries, &results);
  bench.measure_limits();
  bench.linear();
  bench.gated();
  bench.quantized();
  bench.attention();
  bench.rows();
  bench.pictures();
  bench.sampling("sample_greedy_64", 0.0f);
  bench.sampling("sample_top_p_64", 0.6f);
  return 0;
}

}  // namespace
}  // namespace cogserve::cuda

int main(int argc, char** argv) { return cogserve::cuda::run(argc, argv); }
