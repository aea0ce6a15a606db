// Vector building blocks shared by the kernels. Compiled once for each target (see
// hwy/foreach_target.h), hence the include guard that opens again for every one.
#if defined(COGSERVE_CPU_SIMD_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef COGSERVE_CPU_SIMD_INL
#undef COGSERVE_CPU_SIMD_INL
#else
#define COGSERVE_CPU_SIMD_INL
#endif

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "engine/backend/cpu/unroll.hpp"
#include "hwy/highway.h"

// Where there are no vectors, unrolling costs time to compile and gains little.
#undef COGSERVE_UNROLL
#if HWY_NATIVE_FMA
#define COGSERVE_UNROLL COGSERVE_UNROLL_WHOLE
#else
#define COGSERVE_UNROLL
#endif

HWY_BEFORE_NAMESPACE();
namespace cogserve::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::CappedTag<float, 16>;
using F32Vec = hn::Vec<F32>;
inline constexpr size_t kLanes = hn::MaxLanes(F32());

// a * b + c, rounded once on every target, so that all targets agree bit for bit.
HWY_INLINE F32Vec fused_add(F32Vec a, F32Vec b, F32Vec c) {
#if HWY_NATIVE_FMA
  return hn::MulAdd(a, b, c);
#else
  const F32 d;
  HWY_ALIGN float lanes[3][kLanes];
  hn::Store(a, d, lanes[0]);
  hn::Store(b, d, lanes[1]);
  hn::Store(c, d, lanes[2]);
  for (size_t i = 0; i < kLanes; ++i) lanes[2][i] = std::fma(lanes[0][i], lanes[1][i], lanes[2][i]);
  return hn::Load(d, lanes[2]);
#endif
}

// The first `count` elements of a vector, `fill` in the others; and back. A row's last elements
// thus go through the same arithmetic as all others.
HWY_INLINE F32Vec load_some(const float* from, size_t count, float fill = 0.0f) {
  const F32 d;
  if (HWY_LIKELY(count == kLanes)) return hn::LoadU(d, from);
  HWY_ALIGN float lanes[kLanes];
  for (size_t i = 0; i < kLanes; ++i) lanes[i] = i < count ? from[i] : fill;
  return hn::Load(d, lanes);
}

HWY_INLINE void store_some(F32Vec value, float* to, size_t count) {
  const F32 d;
  if (HWY_LIKELY(count == kLanes)) return hn::StoreU(value, d, to);
  HWY_ALIGN float lanes[kLanes];
  hn::Store(value, d, lanes);
  for (size_t i = 0; i < count; ++i) to[i] = lanes[i];
}

// e^x for x <= 0 (and a little above), within 1 ulp; 0 below -87.3, where the result would be
// subnormal. A NaN stays a NaN.
HWY_INLINE F32Vec exp_nonpositive(F32Vec x) {
  const F32 d;
  const hn::Rebind<int32_t, F32> di;
  const F32Vec log2e = hn::Set(d, 1.44269504f);
  // ln 2 in two parts: the first has few bits, so that n * high is exact.
  const F32Vec ln2_high = hn::Set(d, 0.693359375f);
  const F32Vec ln2_low = hn::Set(d, -2.12194440e-4f);
  const auto lowest = hn::Set(d, -87.33654f);
  const auto tiny = hn::Lt(x, lowest);
  const F32Vec n = hn::Round(hn::Mul(x, log2e));
  F32Vec r = hn::NegMulAdd(n, ln2_high, x);
  r = hn::NegMulAdd(n, ln2_low, r);
  // Taylor's series of e^r to the 7th power; |r| <= ln(2) / 2 leaves a remainder of 6e-9.
  F32Vec p = hn::Set(d, 1.0f / 5040.0f);
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 720.0f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 120.0f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 24.0f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 6.0f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.5f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
  const auto exponent = hn::ShiftLeft<23>(hn::Add(hn::ConvertTo(di, n), hn::Set(di, 127)));
  const F32Vec result = hn::Mul(p, hn::BitCast(d, exponent));
  return hn::IfThenZeroElse(tiny, result);
}

}  // namespace cogserve::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
