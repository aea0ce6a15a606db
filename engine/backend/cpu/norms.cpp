#include "engine/backend/cpu/norms.hpp"

#include "engine/backend/cpu/simd_targets.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/backend/cpu/norms.cpp"
#include "hwy/foreach_target.h"  // compiles this file once for each target
// (and these after it)
#include "engine/backend/cpu/parallel_rows.hpp"
#include "engine/backend/cpu/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace cogserve::cpu::HWY_NAMESPACE {

// Sum of (x[i] - shift)^power over a row, power 1 or 2: four running vectors, added at the end in
// a fixed order.
template <int kPower>
HWY_INLINE float sum_of_powers(const float* x, size_t n, float shift) {
  const F32 d;
  const F32Vec offset = hn::Set(d, shift);
  const auto add = [offset](F32Vec value, F32Vec sum) HWY_ATTR {
    const F32Vec centred = hn::Sub(value, offset);
    return kPower == 1 ? hn::Add(sum, centred) : hn::MulAdd(centred, centred, sum);
  };
  F32Vec sums[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  size_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    COGSERVE_UNROLL
    for (size_t v = 0; v < 4; ++v) sums[v] = add(hn::LoadU(d, x + i + v * kLanes), sums[v]);
  }
  for (; i + kLanes <= n; i += kLanes) sums[0] = add(hn::LoadU(d, x + i), sums[0]);
  float tail = 0.0f;
  for (; i < n; ++i) {
    const float centred = x[i] - shift;
    tail += kPower == 1 ? centred : centred * centred;
  }
  const F32Vec all = hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3]));
  return hn::GetLane(hn::SumOfLanes(d, all)) + tail;
}

void rms_norm_rows(const Tensor& x, const Tensor& weight, float eps, const Tensor& y, size_t begin,
                   size_t end) {
  const F32 d;
  const size_t n = x.cols;
  const float* w = weight.row<float>(0);
  for (size_t row = begin; row < end; ++row) {
    const float* from = x.row<float>(row);
    float* to = y.row<float>(row);
    const float mean = sum_of_powers<2>(from, n, 0.0f) / static_cast<float>(n);
    const float scale = 1.0f / std::sqrt(mean + eps);
    const F32Vec factor = hn::Set(d, scale);
    size_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      const F32Vec scaled = hn::Mul(hn::LoadU(d, from + i), factor);
      hn::StoreU(hn::Mul(scaled, hn::LoadU(d, w + i)), d, to + i);
    }
    for (; i < n; ++i) to[i] = from[i] * scale * w[i];
  }
}

void layer_norm_rows(const Tensor& x, const Tensor& weight, const Tensor& bias, float eps,
                     NormOutput output, const Tensor& y, size_t begin, size_t end) {
  const F32 d;
  const size_t n = x.cols;
  const float* w = weight.row<float>(0);
  const float* b = bias.row<float>(0);
  const bool adds = output == NormOutput::kAdd;
  for (size_t row = begin; row < end; ++row) {
    const float* from = x.row<float>(row);
    float* to = y.row<float>(row);
    const float mean = sum_of_powers<1>(from, n, 0.0f) / static_cast<float>(n);
    const float variance = sum_of_powers<2>(from, n, mean) / static_cast<float>(n);
    const float scale = 1.0f / std::sqrt(variance + eps);
    const F32Vec factor = hn::Set(d, scale);
    const F32Vec offset = hn::Set(d, mean);
    size_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      const F32Vec unit = hn::Mul(hn::Sub(hn::LoadU(d, from + i), offset), factor);
      F32Vec value = hn::Add(hn::Mul(unit, hn::LoadU(d, w + i)), hn::LoadU(d, b + i));
      if (adds) value = hn::Add(hn::LoadU(d, to + i), value);
      hn::StoreU(value, d, to + i);
    }
    for (; i < n; ++i) {
      const float value = (from[i] - mean) * scale * w[i] + b[i];
      to[i] = adds ? to[i] + value : value;
    }
  }
}

}  // namespace cogserve::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace cogserve::cpu {

HWY_EXPORT(rms_norm_rows);
HWY_EXPORT(layer_norm_rows);

void rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& y, ThreadPool& pool) {
  parallel_rows(pool, x.rows, x.cols, [&](size_t begin, size_t end) {
    HWY_DYNAMIC_DISPATCH(rms_norm_rows)(x, weight, eps, y, begin, end);
  });
}

void layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, float eps,
                NormOutput output, const Tensor& y, ThreadPool& pool) {
  parallel_rows(pool, x.rows, x.cols, [&](size_t begin, size_t end) {
    HWY_DYNAMIC_DISPATCH(layer_norm_rows)(x, weight, bias, eps, output, y, begin, end);
  });
}

}  // namespace cogserve::cpu
#endif  // HWY_ONCE
