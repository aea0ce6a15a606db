// Selections from a row of logits by one block: the largest, the cut that leaves the likeliest
// tokens of a given number or mass, and the place where a running sum in order of ids passes a
// target.
//
// Weights are e^((logit - largest) / temperature) as 64-bit integers in units of 2^-44. Integer
// sums do not depend on the order of adding, so no result depends on which thread came first.
#pragma once

#include <cstdint>

#include "engine/backend/cuda/numeric.cuh"

namespace cogserve::cuda {

using Mass = unsigned long long;

inline constexpr int kSampleThreads = 1024;
inline constexpr int kSampleWarps = kSampleThreads / 32;
inline constexpr int kBins = 256;
inline constexpr int kBinCopies = 8;                    // so that fewer lanes meet at one bin
inline constexpr float kMassUnits = 17592186044416.0f;  // 2^44: 2^17 weights of 1 are below 2^64

// Shared memory adds 32-bit integers by itself and 64-bit ones in a loop of attempts, which is slow
// where many lanes meet. So a mass, of 45 bits, is added to a bin in three parts: 2^17 of them are
// below 2^32.
inline constexpr int kLimbBits = 15;
inline constexpr int kMassLimbs = 3;

struct Candidate {
  float logit;
  int32_t id;
};

struct SelectShared {
  Mass bins[kBins];
  uint32_t limbs[kMassLimbs][kBinCopies][kBins + 1];  // + 1: copies of a bin in different banks
  Mass sums[kSampleWarps];
  Candidate best[kSampleWarps];
  Mass target;
  uint32_t prefix;
  int32_t found;
  int32_t count;
  int32_t ids[32];
};

// Logits in an order in which larger ones have larger keys; -0 and 0 are one.
__device__ __forceinline__ uint32_t key_of(float logit) {
  const uint32_t bits = __float_as_uint(logit + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float logit_of(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// The likeliest tokens: those whose key is above `key` and, in order of ids, the first `ties` of
// those with the same key. Every key is above 0, so {0, 0} keeps all.
struct Cut {
  uint32_t key = 0;
  Mass ties = 0;
};

struct Weigher {
  static constexpr int kLimbs = kMassLimbs;

  float largest;
  float temperature;

  // The division comes last: by a temperature near 0 it gives 0 or -inf, never a NaN.
  __device__ __forceinline__ float weight(float logit) const {
    return expf((logit - largest) / temperature);
  }
  __device__ __forceinline__ Mass operator()(float logit) const {
    return __float2ull_rz(weight(logit) * kMassUnits);
  }
};

struct Counter {
  static constexpr int kLimbs = 1;

  __device__ __forceinline__ Mass operator()(float) const { return 1; }
};

__device__ __forceinline__ Mass warp_sum_of(Mass value) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) value += __shfl_xor_sync(kAllLanes, value, mask);
  return value;
}

// Larger logits first, then lower ids.
__device__ __forceinline__ Candidate better(Candidate a, Candidate b) {
  return b.logit > a.logit || (b.logit == a.logit && b.id < a.id) ? b : a;
}

// The likeliest of a row without NaN; id -1 if all are -inf.
__device__ inline Candidate block_best(const float* logits, int vocab, SelectShared& shared) {
  Candidate best = {-INFINITY, vocab};
  for (int id = threadIdx.x; id < vocab; id += kSampleThreads) {
    best = better(best, {logits[id], id});
  }
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) {
    const float logit = __shfl_xor_sync(kAllLanes, best.logit, mask);
    const int32_t id = __shfl_xor_sync(kAllLanes, best.id, mask);
    best = better(best, {logit, id});
  }
  if (threadIdx.x % 32 == 0) shared.best[threadIdx.x / 32] = best;
  __syncthreads();
  best = shared.best[0];
  for (int warp = 1; warp < kSampleWarps; ++warp) best = better(best, shared.best[warp]);
  __syncthreads();
  if (best.logit == -INFINITY) best.id = -1;
  return best;
}

// The sum of `value` over the block.
__device__ inline Mass block_sum_of(Mass value, SelectShared& shared) {
  value = warp_sum_of(value);
  if (threadIdx.x % 32 == 0) shared.sums[threadIdx.x / 32] = value;
  __syncthreads();
  Mass sum = 0;
  for (int warp = 0; warp < kSampleWarps; ++warp) sum += shared.sums[warp];
  __syncthreads();
  return sum;
}

// The mass that a cut keeps.
template <typename Weigh>
__device__ Mass kept_mass(const float* logits, int vocab, const Weigh& weigh, Cut cut,
                          SelectShared& shared) {
  Mass sum = 0;
  for (int id = threadIdx.x; id < vocab; id += kSampleThreads) {
    if (key_of(logits[id]) > cut.key) sum += weigh(logits[id]);
  }
  sum = block_sum_of(sum, shared);
  return cut.ties == 0 ? sum : sum + cut.ties * weigh(logit_of(cut.key));
}

// The bin, from the highest down, in which the running sum reaches the target; the target becomes
// what is missing when that bin begins. By the first warp.
__device__ inline void choose_bin(int shift, SelectShared& shared) {
  const int lane = threadIdx.x;
  constexpr int kShare = kBins / 32;
  Mass own = 0;
  for (int i = 0; i < kShare; ++i) own += shared.bins[kBins - 1 - (lane * kShare + i)];
  Mass through = own;
#pragma unroll
  for (int delta = 1; delta < 32; delta *= 2) {
    const Mass before = __shfl_up_sync(kAllLanes, through, delta);
    if (lane >= delta) through += before;
  }
  const Mass target = shared.target;
  __syncwarp();
  Mass before = through - own;
  if (before >= target || through < target) return;
  for (int i = 0; i < kShare; ++i) {
    const int bin = kBins - 1 - (lane * kShare + i);
    const Mass mass = shared.bins[bin];
    if (before + mass >= target) {
      shared.prefix |= static_cast<uint32_t>(bin) << shift;
      shared.target = target - before;
      return;
    }
    before += mass;
  }
}

// Exact, whatever the order in which threads come.
template <int kLimbs>
__device__ __forceinline__ void add_to_bin(Mass mass, int bin, SelectShared& shared) {
  const int copy = static_cast<int>(threadIdx.x) % kBinCopies;
#pragma unroll
  for (int limb = 0; limb < kLimbs; ++limb) {
    const uint32_t part = static_cast<uint32_t>(mass >> (limb * kLimbBits)) % (1u << kLimbBits);
    if (part != 0) atomicAdd(&shared.limbs[limb][copy][bin], part);
  }
}

template <int kLimbs>
__device__ __forceinline__ Mass sum_of_bin(int bin, const SelectShared& shared) {
  Mass sum = 0;
  for (int limb = 0; limb < kLimbs; ++limb) {
    for (int copy = 0; copy < kBinCopies; ++copy) {
      sum += static_cast<Mass>(shared.limbs[limb][copy][bin]) << (limb * kLimbBits);
    }
  }
  return sum;
}

// The smallest set of likeliest tokens among those that `within` keeps whose sum reaches `target`
// (at least 1, at most what there is): four digits of the key, highest first.
template <typename Weigh>
__device__ Cut select(const float* logits, int vocab, const Weigh& weigh, Mass target, Cut within,
                      SelectShared& shared) {
  if (threadIdx.x == 0) {
    shared.prefix = 0;
    shared.target = target;
  }
  for (int shift = 24; shift >= 0; shift -= 8) {
    constexpr int kCells = Weigh::kLimbs * kBinCopies * (kBins + 1);
    uint32_t* const limbs = shared.limbs[0][0];
    for (int i = threadIdx.x; i < kCells; i += kSampleThreads) limbs[i] = 0;
    __syncthreads();
    const uint32_t prefix = shared.prefix;
    const uint32_t mask = shift == 24 ? 0u : ~0u << (shift + 8);
    for (int id = threadIdx.x; id < vocab; id += kSampleThreads) {
      const uint32_t key = key_of(logits[id]);
      if ((key & mask) != prefix || key <= within.key) continue;
      const auto bin = static_cast<int>(key >> shift & (kBins - 1));
      add_to_bin<Weigh::kLimbs>(weigh(logits[id]), bin, shared);
    }
    __syncthreads();
    if (threadIdx.x < kBins) {
      const uint32_t bin = threadIdx.x;
      Mass sum = sum_of_bin<Weigh::kLimbs>(static_cast<int>(bin), shared);
      const bool has_ties = within.ties > 0 && (within.key & mask) == prefix &&
                            (within.key >> shift & (kBins - 1)) == bin;
      if (has_ties) sum += within.ties * weigh(logit_of(within.key));
      shared.bins[bin] = sum;
    }
    __syncthreads();
    if (threadIdx.x < 32) choose_bin(shift, shared);
    __syncthreads();
  }
  Cut cut;
  cut.key = shared.prefix;
  const Mass each = weigh(logit_of(cut.key));
  cut.ties = (shared.target + each - 1) / each;
  __syncthreads();
  return cut;
}

// The first id of a warp's part of the vocabulary; parts are whole groups of 32, in order of ids.
__device__ __forceinline__ int part_begin(int vocab, int warp) {
  const int groups = (vocab + 31) / 32;
  const int share = (groups + kSampleWarps - 1) / kSampleWarps;
  return min(warp * share * 32, vocab);
}

// Sums of value(id) by parts into shared.sums; returns the sum of all.
template <typename Value>
__device__ Mass sum_parts(int vocab, const Value& value, SelectShared& shared) {
  const int warp = threadIdx.x / 32;
  Mass sum = 0;
  for (int id = part_begin(vocab, warp) + threadIdx.x % 32; id < part_begin(vocab, warp + 1);
       id += 32) {
    sum += value(id);
  }
  sum = warp_sum_of(sum);
  if (threadIdx.x % 32 == 0) shared.sums[warp] = sum;
  __syncthreads();
  Mass total = 0;
  for (int i = 0; i < kSampleWarps; ++i) total += shared.sums[i];
  return total;
}

// After sum_parts with the same `value`: the lowest id through which the sum in order of ids
// reaches `target` (at least 1, at most the total).
template <typename Value>
__device__ int32_t find_in_order(int vocab, const Value& value, Mass target, SelectShared& shared) {
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  Mass before = 0;
  for (int i = 0; i < warp; ++i) before += shared.sums[i];
  if (before < target && before + shared.sums[warp] >= target) {
    const int end = part_begin(vocab, warp + 1);
    for (int first = part_begin(vocab, warp); first < end; first += 32) {
      Mass through = first + lane < end ? value(first + lane) : 0;
#pragma unroll
      for (int delta = 1; delta < 32; delta *= 2) {
        const Mass other = __shfl_up_sync(kAllLanes, through, delta);
        if (lane >= delta) through += other;
      }
      const unsigned reached = __ballot_sync(kAllLanes, before + through >= target);
      if (reached != 0) {
        if (lane == 0) shared.found = first + __ffs(static_cast<int>(reached)) - 1;
        break;
      }
      before += __shfl_sync(kAllLanes, through, 31);
    }
  }
  __syncthreads();
  const int32_t found = shared.found;
  __syncthreads();
  return found;
}

// The highest id among a cut's ties that it keeps; -1 if it keeps none.
__device__ inline int32_t last_tie(const float* logits, int vocab, Cut cut, SelectShared& shared) {
  if (cut.ties == 0) return -1;
  const auto is_tie = [&](int id) { return key_of(logits[id]) == cut.key ? Mass{1} : Mass{0}; };
  sum_parts(vocab, is_tie, shared);
  return find_in_order(vocab, is_tie, cut.ties, shared);
}

}  // namespace cogserve::cuda
