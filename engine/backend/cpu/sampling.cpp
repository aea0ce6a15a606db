#include "engine/backend/cpu/sampling.hpp"

#include "engine/backend/cpu/simd_targets.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/backend/cpu/sampling.cpp"
#include "hwy/foreach_target.h"  // compiles this file once for each target
// (and these after it)
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <new>

#include "engine/backend/cpu/random.hpp"
#include "engine/backend/cpu/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace cogserve::cpu::HWY_NAMESPACE {

// The largest of n logits; a NaN if there is a NaN or +inf among them.
float largest_logit(const float* logits, size_t n) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const F32 d;
  F32Vec top = hn::Set(d, -kInfinity);
  F32Vec poison = hn::Zero(d);  // becomes NaN with the first NaN or +inf, and stays so
  for (size_t i = 0; i < n; i += kLanes) {
    const F32Vec value = load_some(logits + i, std::min(kLanes, n - i), -kInfinity);
    top = hn::Max(top, value);
    // -inf is an ordinary logit: a token that never comes.
    const auto ordinary = hn::Lt(value, hn::Set(d, kInfinity));
    poison = hn::Add(poison, hn::IfThenZeroElse(ordinary, hn::Sub(value, value)));
  }
  return hn::GetLane(hn::MaxOfLanes(d, top)) + hn::GetLane(hn::SumOfLanes(d, poison));
}

// weights[i] = e^((logits[i] - largest) / temperature); returns their sum. The division comes
// last: by a temperature near 0 it gives 0 or -inf, never a NaN.
double softmax_weights(const float* logits, size_t n, float largest, float temperature,
                       float* weights) {
  // Short f32 sums of a block, long f64 sums of blocks.
  constexpr size_t kBlock = 32 * kLanes;
  const F32 d;
  const F32Vec top = hn::Set(d, largest);
  const F32Vec divisor = hn::Set(d, temperature);
  double sum = 0.0;
  for (size_t block = 0; block < n; block += kBlock) {
    const size_t end = std::min(n, block + kBlock);
    F32Vec total = hn::Zero(d);
    for (size_t i = block; i < end; i += kLanes) {
      const size_t count = std::min(kLanes, end - i);
      const F32Vec value = load_some(logits + i, count, -std::numeric_limits<float>::infinity());
      const F32Vec weight = exp_nonpositive(hn::Div(hn::Sub(value, top), divisor));
      total = hn::Add(total, weight);
      store_some(weight, weights + i, count);
    }
    sum += hn::GetLane(hn::SumOfLanes(d, total));
  }
  return sum;
}

}  // namespace cogserve::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace cogserve::cpu {
namespace {

HWY_EXPORT(largest_logit);
HWY_EXPORT(softmax_weights);

// The order of candidates everywhere: larger logits first, then lower ids.
struct Likelier {
  const float* logits;
  bool operator()(int32_t a, int32_t b) const {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  }
};

// Each token is penalised once for having been seen, and by how often it was put out. `counts` is
// all zero before and after. Ids outside the vocabulary have no logit and are passed over.
void apply_penalties(const SampleRow& row, std::span<float> logits, std::span<int32_t> counts) {
  constexpr int32_t kDone = -1;
  const SamplingParams& params = row.params;
  const auto known = [&](int32_t id) { return id >= 0 && static_cast<size_t>(id) < counts.size(); };
  const auto repeat = [&](float logit) {
    return logit > 0.0f ? logit / params.repetition_penalty : logit * params.repetition_penalty;
  };
  for (int32_t id : row.output_ids) {
    if (known(id)) ++counts[id];
  }
  for (int32_t id : row.output_ids) {
    if (!known(id) || counts[id] == kDone) continue;
    logits[id] = repeat(logits[id]) - params.presence_penalty -
                 params.frequency_penalty * static_cast<float>(counts[id]);
    counts[id] = kDone;
  }
  for (int32_t id : row.prompt_ids) {
    if (!known(id) || counts[id] == kDone) continue;
    logits[id] = repeat(logits[id]);
    counts[id] = kDone;
  }
  for (int32_t id : row.output_ids) {
    if (known(id)) counts[id] = 0;
  }
  for (int32_t id : row.prompt_ids) {
    if (known(id)) counts[id] = 0;
  }
}

void fill_logprobs(std::span<const float> logits, float largest, int alternatives,
                   std::vector<float>& weights, SampledToken& token) {
  const double sum = HWY_DYNAMIC_DISPATCH(softmax_weights)(logits.data(), logits.size(), largest,
                                                           1.0f, weights.data());
  const double normaliser = static_cast<double>(largest) + std::log(sum);
  const auto logprob = [&](int32_t id) { return static_cast<float>(logits[id] - normaliser); };
  token.logprob = logprob(token.id);
  // The best so far, in order; few of the vocabulary ever get in.
  const Likelier likelier{logits.data()};
  std::vector<int32_t> best;
  const size_t wanted = std::min<size_t>(std::max(alternatives, 0), logits.size());
  for (int32_t id = 0; wanted > 0 && id < static_cast<int32_t>(logits.size()); ++id) {
    if (best.size() == wanted) {
      if (!likelier(id, best.back())) continue;
      best.pop_back();
    }
    best.insert(std::upper_bound(best.begin(), best.end(), id, likelier), id);
  }
  token.top.clear();
  for (int32_t id : best) token.top.push_back({id, logprob(id)});
}

// One row's draw among the candidates that top_k, top_p and min_p leave.
class Draw {
 public:
  Draw(const SamplingParams& params, SamplingScratch& scratch, double sum)
      : params_(params), scratch_(scratch), sum_(sum) {}

  int32_t token(uint64_t index) {
    keep_likely();
    if (params_.top_k > 0) keep_top_k();
    if (params_.top_p < 1.0f) keep_top_p();
    if (params_.min_p > 0.0f) keep_min_p();
    double mass = 0.0;
    for (int32_t id : scratch_.kept) mass += weight(id);
    double rest = uniform(params_.seed, index) * mass;
    int32_t last = scratch_.kept.front();
    for (int32_t id : scratch_.kept) {
      if (weight(id) <= 0.0) continue;
      last = id;
      rest -= weight(id);
      if (rest < 0.0) break;
    }
    return last;  // rounding may leave nothing to subtract from: then the last that can come
  }

 private:
  double weight(int32_t id) const { return scratch_.weights[id]; }

  // Everything; but where top_k or top_p cut anyway, first try to find all that they can keep among
  // the few large weights.
  void keep_likely() {
    const bool cuts = params_.top_k > 0 || params_.top_p < 1.0f;
    for (const float floor : {1e-2f, 1e-4f, 1e-7f, 0.0f}) {
      if (!cuts && floor > 0.0f) continue;
      scratch_.kept.clear();
      double mass = 0.0;
      for (size_t id = 0; id < scratch_.weights.size(); ++id) {
        if (scratch_.weights[id] < floor) continue;
        scratch_.kept.push_back(static_cast<int32_t>(id));
        mass += scratch_.weights[id];
      }
      const bool holds_top_k =
          params_.top_k > 0 && scratch_.kept.size() >= static_cast<size_t>(params_.top_k);
      const bool holds_top_p = params_.top_k == 0 && mass >= params_.top_p * sum_;
      if (holds_top_k || holds_top_p) break;
    }
  }

  void keep_top_k() {
    const size_t k = params_.top_k;
    if (scratch_.kept.size() > k) {
      scratch_.ordered = scratch_.kept;
      auto& ordered = scratch_.ordered;
      std::nth_element(ordered.begin(), ordered.begin() + (k - 1), ordered.end(), likelier());
      keep_down_to(ordered[k - 1]);
    }
    sum_ = 0.0;
    for (int32_t id : scratch_.kept) sum_ += weight(id);
  }

  // The smallest set of likeliest tokens whose probability reaches top_p: halve the range in
  // which its last member lies until it is found.
  void keep_top_p() {
    scratch_.ordered = scratch_.kept;
    auto low = scratch_.ordered.begin();
    auto high = scratch_.ordered.end();
    double missing = static_cast<double>(params_.top_p) * sum_;
    while (high - low > 1) {
      const auto middle = low + (high - low) / 2;
      std::nth_element(low, middle, high, likelier());
      double mass = 0.0;
      for (auto it = low; it != middle; ++it) mass += weight(*it);
      if (mass >= missing) {
        high = middle;
      } else {
        missing -= mass;
        low = middle;
      }
    }
    keep_down_to(*low);
  }

  // The likeliest token's weight is 1.
  void keep_min_p() {
    std::erase_if(scratch_.kept, [&](int32_t id) { return weight(id) < params_.min_p; });
  }

  void keep_down_to(int32_t last) {
    std::erase_if(scratch_.kept, [&](int32_t id) { return likelier()(last, id); });
  }

  Likelier likelier() const { return {scratch_.logits.data()}; }

  const SamplingParams& params_;
  SamplingScratch& scratch_;
  double sum_;
};

int32_t choose(const SampleRow& row, SamplingScratch& scratch) {
  const size_t vocab = scratch.logits.size();
  const float largest = HWY_DYNAMIC_DISPATCH(largest_logit)(scratch.logits.data(), vocab);
  if (!std::isfinite(largest)) return -1;
  if (row.params.temperature <= 0.0f) {
    return static_cast<int32_t>(std::find(scratch.logits.begin(), scratch.logits.end(), largest) -
                                scratch.logits.begin());
  }
  const double sum = HWY_DYNAMIC_DISPATCH(softmax_weights)(
      scratch.logits.data(), vocab, largest, row.params.temperature, scratch.weights.data());
  return Draw(row.params, scratch, sum).token(row.index());
}

SampledToken sample_row(std::span<const float> logits, const SampleRow& row,
                        SamplingScratch& scratch) {
  SampledToken token;
  const float largest = HWY_DYNAMIC_DISPATCH(largest_logit)(logits.data(), logits.size());
  token.finite = std::isfinite(largest);
  if (!token.finite) return token;
  scratch.logits.assign(logits.begin(), logits.end());
  scratch.weights.resize(logits.size());
  for (int32_t id : row.banned_ids) {
    if (id >= 0 && static_cast<size_t>(id) < logits.size()) {
      scratch.logits[id] = -std::numeric_limits<float>::infinity();
    }
  }
  if (penalises(row.params)) {
    scratch.counts.resize(logits.size());
    apply_penalties(row, scratch.logits, scratch.counts);
  }
  token.id = choose(row, scratch);
  token.finite = token.id >= 0;
  if (token.finite && row.params.logprobs >= 0) {
    fill_logprobs(logits, largest, row.params.logprobs, scratch.weights, token);
  }
  return token;
}

}  // namespace

void sample(const Tensor& logits, std::span<const SampleRow> rows, std::span<SampledToken> sampled,
            std::span<SamplingScratch> scratch, ThreadPool& pool) {
  const size_t grain = logits.cols < 4096 ? rows.size() : 1;
  std::atomic<bool> out_of_memory = false;
  pool.parallel_for(rows.size(), grain, [&](size_t begin, size_t end, int worker) {
    try {  // nothing may leave a worker
      for (size_t i = begin; i < end; ++i) {
        const std::span<const float> row(logits.row<float>(i), logits.cols);
        sampled[i] = sample_row(row, rows[i], scratch[worker]);
      }
    } catch (const std::bad_alloc&) {
      out_of_memory = true;
    }
  });
  if (out_of_memory) throw std::bad_alloc();
}

}  // namespace cogserve::cpu
#endif  // HWY_ONCE
