#include "tests/bench/machine_limits.hpp"

#include "engine/backend/cpu/simd_targets.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/bench/machine_limits.cpp"
#include "hwy/foreach_target.h"  // compiles this file once for each target
// (and these after it)
#include <cstdlib>
#include <memory>
#include <vector>

#include "engine/backend/cpu/memory.hpp"
#include "engine/backend/cpu/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace cogserve::cpu::HWY_NAMESPACE {

constexpr size_t kChains = 12;

// Four streams side by side, which reads faster than one. Returns something made of every element,
// so that no read can be left out.
float read_all(const float* data, size_t n) {
  constexpr size_t kStreams = 4;
  const F32 d;
  const size_t length = n / kStreams;
  F32Vec sums[kStreams][2];
  COGSERVE_UNROLL
  for (size_t s = 0; s < kStreams; ++s) sums[s][0] = sums[s][1] = hn::Zero(d);
  for (size_t i = 0; i < length; i += 2 * kLanes) {
    COGSERVE_UNROLL
    for (size_t s = 0; s < kStreams; ++s) {
      const float* at = data + s * length + i;
      sums[s][0] = hn::Add(sums[s][0], hn::Load(d, at));
      sums[s][1] = hn::Add(sums[s][1], hn::Load(d, at + kLanes));
    }
  }
  F32Vec total = hn::Zero(d);
  COGSERVE_UNROLL
  for (size_t s = 0; s < kStreams; ++s) total = hn::Add(total, hn::Add(sums[s][0], sums[s][1]));
  return hn::GetLane(hn::SumOfLanes(d, total));
}

// kChains chains of `steps` fused adds; returns the FLOP done.
double multiply_add(size_t steps, float* result) {
  const F32 d;
  F32Vec sums[kChains];
  const F32Vec factor = hn::Set(d, 0.999f);
  COGSERVE_UNROLL
  for (size_t c = 0; c < kChains; ++c) sums[c] = hn::Set(d, static_cast<float>(c));
  for (size_t i = 0; i < steps; ++i) {
    COGSERVE_UNROLL
    for (size_t c = 0; c < kChains; ++c) sums[c] = hn::MulAdd(sums[c], factor, factor);
  }
  F32Vec total = hn::Zero(d);
  COGSERVE_UNROLL
  for (size_t c = 0; c < kChains; ++c) total = hn::Add(total, sums[c]);
  *result = hn::GetLane(hn::SumOfLanes(d, total));
  return 2.0 * static_cast<double>(steps * kChains * kLanes);
}

}  // namespace cogserve::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace cogserve::cpu {
HWY_EXPORT(read_all);
HWY_EXPORT(multiply_add);

namespace {

float read_all_best(const float* data, size_t n) { return HWY_DYNAMIC_DISPATCH(read_all)(data, n); }

double multiply_add_best(size_t steps, float* result) {
  return HWY_DYNAMIC_DISPATCH(multiply_add)(steps, result);
}

}  // namespace
}  // namespace cogserve::cpu

namespace cogserve::bench {

double read_rate(cpu::ThreadPool& pool, const void* memory, size_t bytes) {
  constexpr size_t kPiece = size_t{1} << 18;
  const auto* data = static_cast<const float*>(memory);
  std::vector<float> sums(bytes / (kPiece * sizeof(float)));
  const double seconds = best_seconds(1, [&] {
    pool.parallel_for(sums.size(), 1, [&](size_t begin, size_t end, int) {
      for (size_t i = begin; i < end; ++i) {
        sums[i] = cpu::read_all_best(data + i * kPiece, kPiece);
      }
    });
  });
  return static_cast<double>(sums.size() * kPiece * sizeof(float)) / seconds;
}

double read_bandwidth(cpu::ThreadPool& pool, int tries) {
  constexpr size_t kFloats = size_t{64} << 20;
  const std::unique_ptr<void, decltype(&std::free)> memory(
      cpu::allocate_memory(kFloats * sizeof(float)), &std::free);
  std::fill_n(static_cast<float*>(memory.get()), kFloats, 1.0f);
  double best = 0.0;
  for (int i = 0; i < tries; ++i) {
    best = std::max(best, read_rate(pool, memory.get(), kFloats * sizeof(float)));
  }
  return best;
}

double fma_peak(cpu::ThreadPool& pool, int tries) {
  constexpr size_t kSteps = size_t{1} << 20;
  constexpr size_t kPieces = 4;
  const size_t pieces = kPieces * pool.size();
  std::vector<float> results(pieces);
  std::vector<double> flop(pieces);
  const double seconds = best_seconds(tries, [&] {
    pool.parallel_for(pieces, 1, [&](size_t begin, size_t end, int) {
      for (size_t i = begin; i < end; ++i) {
        flop[i] = cpu::multiply_add_best(kSteps, &results[i]);
      }
    });
  });
  double all = 0.0;
  for (double f : flop) all += f;
  return all / seconds;
}

}  // namespace cogserve::bench
#endif  // HWY_ONCE
