#include "engine/backend/cuda/sampling.hpp"

#include "engine/backend/cuda/dispatch.hpp"
#include "engine/backend/cuda/launch.cuh"
#include "engine/backend/cuda/sampling_select.cuh"

namespace cogserve::cuda {
namespace {

// --- kernels ------------------------------------------------------------------------------------

// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel Random Numbers: As Easy as 1, 2, 3", SC11):
// 53 bits that are a function of seed and index alone, those that the CPU backend draws.
__device__ uint64_t random_bits(uint64_t seed, uint64_t index) {
  uint32_t counter[4] = {static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), 0, 0};
  uint32_t key[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * counter[0];
    const uint64_t b = uint64_t{0xCD9E8D57} * counter[2];
    counter[0] = static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0];
    counter[1] = static_cast<uint32_t>(b);
    counter[2] = static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1];
    counter[3] = static_cast<uint32_t>(a);
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return (uint64_t{counter[0]} << 32 | counter[1]) >> 11;
}

// True if no logit is NaN or +inf; -inf is an ordinary logit: a token that never comes.
__device__ bool is_ordinary(const float* logits, int vocab, SelectShared& shared) {
  Mass bad = 0;
  for (int id = threadIdx.x; id < vocab; id += kSampleThreads) {
    if (!(logits[id] < INFINITY)) bad = 1;
  }
  return block_sum_of(bad, shared) == 0;
}

// Each token is penalised once for having been seen, and by how often it was put out: whoever takes
// an id's count away does it. `counts` is all zero before and after. Ids may repeat: what several
// threads may store at a time is stored atomically. Bans that other threads put into `logits` need
// not be ordered before.
__device__ void apply_penalties(const SampleTask& task, const int32_t* prompt,
                                const int32_t* output, float* logits, int32_t* counts, int vocab) {
  constexpr int32_t kDone = -1;
  const auto known = [&](int32_t id) { return id >= 0 && id < vocab; };
  const auto repeat = [&](float logit) {
    return logit > 0.0f ? logit / task.repetition_penalty
                        : __fmul_rn(logit, task.repetition_penalty);
  };
  for (int i = threadIdx.x; i < task.output_ids; i += kSampleThreads) {
    if (known(output[i])) atomicAdd(&counts[output[i]], 1);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < task.output_ids; i += kSampleThreads) {
    const int32_t id = output[i];
    if (!known(id)) continue;
    const int32_t count = atomicExch(&counts[id], kDone);
    if (count == kDone) continue;
    const float often = __fmul_rn(task.frequency_penalty, static_cast<float>(count));
    logits[id] = __fsub_rn(__fsub_rn(repeat(logits[id]), task.presence_penalty), often);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < task.prompt_ids; i += kSampleThreads) {
    const int32_t id = prompt[i];
    if (known(id) && atomicExch(&counts[id], kDone) != kDone) logits[id] = repeat(logits[id]);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < task.output_ids; i += kSampleThreads) {
    if (known(output[i])) atomicExch(&counts[output[i]], 0);
  }
  for (int i = threadIdx.x; i < task.prompt_ids; i += kSampleThreads) {
    if (known(prompt[i])) atomicExch(&counts[prompt[i]], 0);
  }
}

// The logits to choose from: the row itself or its copy with bans and penalties applied.
__device__ const float* change_logits(const float* logits, const SampleTask& task,
                                      const int32_t* ids, float* changed, int32_t* counts,
                                      int vocab) {
  if (task.scratch_row < 0) return logits;
  float* const row = changed + static_cast<int64_t>(task.scratch_row) * vocab;
  for (int id = threadIdx.x; id < vocab; id += kSampleThreads) row[id] = logits[id];
  __syncthreads();
  const int32_t* const prompt = ids + task.ids_begin;
  const int32_t* const output = prompt + task.prompt_ids;
  const int32_t* const banned = output + task.output_ids;
  for (int i = threadIdx.x; i < task.banned_ids; i += kSampleThreads) {
    if (banned[i] >= 0 && banned[i] < vocab) atomicExch(&row[banned[i]], -INFINITY);
  }
  if (task.prompt_ids + task.output_ids > 0) {
    apply_penalties(task, prompt, output, row,
                    counts + static_cast<int64_t>(task.scratch_row) * vocab, vocab);
  }
  __syncthreads();
  return row;
}

// One draw among the candidates that top_k, top_p and min_p leave, by their masses in order of ids.
__device__ int32_t draw_token(const float* logits, float largest, const SampleTask& task, int vocab,
                              SelectShared& shared) {
  const Weigher weigher = {largest, task.temperature};
  Cut cut;
  if (task.top_k > 0 && task.top_k < vocab) {
    cut = select(logits, vocab, Counter(), task.top_k, cut, shared);
  }
  if (task.top_p < 1.0f) {
    const Mass sum = kept_mass(logits, vocab, weigher, cut, shared);
    const double wanted = ceil(static_cast<double>(task.top_p) * static_cast<double>(sum));
    const Mass target = min(max(static_cast<Mass>(wanted), Mass{1}), sum);
    cut = select(logits, vocab, weigher, target, cut, shared);
  }
  const int32_t tie_end = last_tie(logits, vocab, cut, shared);
  const auto mass = [&](int id) {
    const uint32_t key = key_of(logits[id]);
    const bool kept = key > cut.key || (key == cut.key && id <= tie_end);
    return kept && weigher.weight(logits[id]) >= task.min_p ? weigher(logits[id]) : Mass{0};
  };
  const Mass total = sum_parts(vocab, mass, shared);
  // floor(total * bits / 2^53) < total, and the first sum beyond it reaches one more.
  const Mass target = __umul64hi(total, random_bits(task.seed, task.draw) << 11) + 1;
  return find_in_order(vocab, mass, target, shared);
}

__device__ void fill_logprobs(const float* logits, float largest, const SampleTask& task, int vocab,
                              SelectShared& shared, SampleResult* result) {
  const Mass sum = kept_mass(logits, vocab, Weigher{largest, 1.0f}, Cut(), shared);
  const double normaliser = static_cast<double>(largest) +
                            log(static_cast<double>(sum) / static_cast<double>(kMassUnits));
  const int wanted = min(min(task.logprobs, kMaxAlternatives), vocab);
  if (wanted > 0) {
    const Cut cut = select(logits, vocab, Counter(), static_cast<Mass>(wanted), Cut(), shared);
    const int32_t tie_end = last_tie(logits, vocab, cut, shared);
    if (threadIdx.x == 0) shared.count = 0;
    __syncthreads();
    for (int id = threadIdx.x; id < vocab; id += kSampleThreads) {
      const uint32_t key = key_of(logits[id]);
      if (key > cut.key || (key == cut.key && id <= tie_end)) {
        shared.ids[atomicAdd(&shared.count, 1)] = id;
      }
    }
    __syncthreads();
  }
  if (threadIdx.x != 0) return;
  result->logprob = static_cast<float>(logits[result->id] - normaliser);
  result->alternatives = wanted;
  for (int i = 0; i < wanted; ++i) {  // they came in any order: sort by insertion
    Candidate next = {logits[shared.ids[i]], shared.ids[i]};
    for (int j = 0; j < i; ++j) {
      const Candidate placed = {logits[result->ids[j]], result->ids[j]};
      if (better(placed, next).id == placed.id) continue;
      result->ids[j] = next.id;
      next = placed;
    }
    result->ids[i] = next.id;
  }
  for (int i = 0; i < wanted; ++i) {
    result->logprobs[i] = static_cast<float>(logits[result->ids[i]] - normaliser);
  }
}

// One block a row. Bytes: 4 * vocab for each pass over the row, which stays in L2. Greedy takes 2
// passes (+ 2 with bans or penalties), a draw 1 more, top_k 4 and top_p 5 more and, with either,
// the ties at the cut 1 more; log-probabilities 2, with alternatives 8. Finding a place in order of
// ids is a pass over a warp's part of the row, for the draw and for the ties.
__global__ __launch_bounds__(kSampleThreads) void sample_kernel(
    const float* logits, int64_t stride, int vocab, const SampleTask* tasks, const int32_t* ids,
    float* changed, int32_t* counts, SampleResult* results, int32_t* drawn_ids) {
  ptx::begin_kernel();
  SelectShared& shared = *shared_memory<SelectShared>();
  const SampleTask task = tasks[blockIdx.x];
  const float* const raw = logits + blockIdx.x * stride;
  SampleResult* const result = results + blockIdx.x;
  int32_t id = -1;
  if (is_ordinary(raw, vocab, shared)) {
    const float* const row = change_logits(raw, task, ids, changed, counts, vocab);
    const Candidate best = block_best(row, vocab, shared);
    id = best.id;
    if (id >= 0 && task.temperature > 0.0f) {
      id = draw_token(row, best.logit, task, vocab, shared);
    }
  }
  if (threadIdx.x == 0) {
    result->finite = id >= 0;
    result->id = id;
    drawn_ids[blockIdx.x] = id;
    result->logprob = 0.0f;
    result->alternatives = 0;
  }
  if (id < 0 || task.logprobs < 0) return;
  const float largest = block_best(raw, vocab, shared).logit;
  fill_logprobs(raw, largest, task, vocab, shared, result);
}

// --- launchers ----------------------------------------------------------------------------------

}  // namespace

void sample(const Tensor& logits, const SampleTask* tasks, const int32_t* ids, float* changed,
            int32_t* counts, SampleResult* results, int32_t* drawn_ids, cudaStream_t stream) {
  if (logits.rows == 0) return;
  launch("sample", {dim3(logits.rows), dim3(kSampleThreads), sizeof(SelectShared)}, stream,
         sample_kernel, logits.row<float>(0), logits.row_stride, static_cast<int>(logits.cols),
         tasks, ids, changed, counts, results, drawn_ids);
}

}  // namespace cogserve::cuda
