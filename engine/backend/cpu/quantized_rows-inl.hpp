// Rows of x as int8. Compiled once for each target.
#if defined(COGSERVE_CPU_QUANTIZED_ROWS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef COGSERVE_CPU_QUANTIZED_ROWS_INL
#undef COGSERVE_CPU_QUANTIZED_ROWS_INL
#else
#define COGSERVE_CPU_QUANTIZED_ROWS_INL
#endif

#include <algorithm>
#include <limits>

#include "engine/backend/cpu/quantized_panel.hpp"
#include "engine/backend/cpu/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace cogserve::cpu::HWY_NAMESPACE {

struct BlockSummary {
  float scale;
  int32_t sum;  // of the codes
};

// x[i] ~ scale * codes[i] with scale = max |x| / 127 and codes rounded to the nearest, ties to
// even; zeros from `count` to `depth`. A block with a NaN or an infinity gets a NaN for its scale.
HWY_INLINE BlockSummary quantize_block(const float* x, size_t count, size_t depth, int8_t* codes) {
  // Below this, 127 / max overflows.
  constexpr float kTiny = 1e-30f;
  const F32 d;
  const hn::Rebind<int32_t, F32> d32;
  const hn::Rebind<int8_t, F32> d8;
  const auto load = [&](size_t i) {
    return load_some(x + i, std::min(kLanes, count - std::min(i, count)));
  };
  F32Vec largest = hn::Zero(d);
  F32Vec faults = hn::Zero(d);  // x * 0: a NaN where x is not finite
  for (size_t i = 0; i < count; i += kLanes) {
    const F32Vec value = load(i);
    largest = hn::Max(largest, hn::Abs(value));
    faults = hn::Add(faults, hn::Mul(value, hn::Zero(d)));
  }
  const float top = hn::GetLane(hn::MaxOfLanes(d, largest));
  const bool finite = hn::GetLane(hn::SumOfLanes(d, faults)) == 0.0f;
  if (!finite || top < kTiny) {
    std::fill_n(codes, depth, int8_t{0});
    return {finite ? 0.0f : std::numeric_limits<float>::quiet_NaN(), 0};
  }
  const F32Vec inverse = hn::Set(d, 127.0f / top);
  auto sum = hn::Zero(d32);
  for (size_t i = 0; i < depth; i += kLanes) {
    const auto code = hn::NearestInt(hn::Mul(load(i), inverse));
    sum = hn::Add(sum, code);
    hn::StoreU(hn::DemoteTo(d8, code), d8, codes + i);
  }
  return {top / 127.0f, hn::GetLane(hn::SumOfLanes(d32, sum))};
}

}  // namespace cogserve::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
