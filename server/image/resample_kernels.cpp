#include "server/image/resample_kernels.hpp"

#include <algorithm>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "server/image/resample_kernels.cpp"
#include "hwy/foreach_target.h"
// foreach_target.h comes first
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace cogserve::image::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

constexpr std::int32_t kHalf = 1 << (kWeightBits - 1);

#if HWY_TARGET == HWY_SCALAR

void resample_row(const std::uint8_t* source, const ResampleAxis& axis, std::uint8_t* target) {
  for (int x = 0; x < axis.outputs(); ++x) {
    const std::uint8_t* pixels = source + 3 * static_cast<std::size_t>(axis.first[x]);
    const std::int32_t* weights = axis.weights_of(x);
    for (int channel = 0; channel < 3; ++channel) {
      std::int32_t sum = kHalf;
      for (int i = 0; i < axis.count[x]; ++i) sum += weights[i] * pixels[3 * i + channel];
      *target++ = static_cast<std::uint8_t>(std::clamp(sum >> kWeightBits, 0, 255));
    }
  }
}

#else

// Four lanes: red, green, blue and whatever byte follows, which is not stored.
void resample_row(const std::uint8_t* source, const ResampleAxis& axis, std::uint8_t* target) {
  const hn::FixedTag<std::int32_t, 4> sum_tag;
  const hn::FixedTag<std::uint8_t, 4> byte_tag;
  for (int x = 0; x < axis.outputs(); ++x) {
    const std::uint8_t* pixel = source + 3 * static_cast<std::size_t>(axis.first[x]);
    const std::int32_t* weight = axis.weights_of(x);
    const std::int32_t* end = weight + axis.count[x];
    // Two independent sums hide the latency of the multiplication.
    auto even = hn::Set(sum_tag, kHalf);
    auto odd = hn::Zero(sum_tag);
    for (; weight + 2 <= end; weight += 2, pixel += 6) {
      const auto first = hn::PromoteTo(sum_tag, hn::LoadU(byte_tag, pixel));
      const auto second = hn::PromoteTo(sum_tag, hn::LoadU(byte_tag, pixel + 3));
      even = hn::Add(even, hn::Mul(first, hn::Set(sum_tag, weight[0])));
      odd = hn::Add(odd, hn::Mul(second, hn::Set(sum_tag, weight[1])));
    }
    if (weight < end) {
      const auto last = hn::PromoteTo(sum_tag, hn::LoadU(byte_tag, pixel));
      even = hn::Add(even, hn::Mul(last, hn::Set(sum_tag, weight[0])));
    }
    std::uint8_t rounded[4];
    hn::StoreU(hn::DemoteTo(byte_tag, hn::ShiftRight<kWeightBits>(hn::Add(even, odd))), byte_tag,
               rounded);
    std::memcpy(target + 3 * static_cast<std::size_t>(x), rounded, 3);
  }
}

#endif

void resample_column(const std::uint8_t* source, std::size_t pitch, const std::int32_t* weights,
                     int count, std::size_t bytes, std::uint8_t* target) {
  const hn::ScalableTag<std::int32_t> sum_tag;
  const hn::Rebind<std::uint8_t, decltype(sum_tag)> byte_tag;
  const std::size_t lanes = hn::Lanes(sum_tag);
  std::size_t x = 0;
  for (; x + 2 * lanes <= bytes; x += 2 * lanes) {
    auto low = hn::Set(sum_tag, kHalf);
    auto high = low;
    const std::uint8_t* input = source + x;
    for (int i = 0; i < count; ++i, input += pitch) {
      const auto weight = hn::Set(sum_tag, weights[i]);
      low = hn::Add(low, hn::Mul(hn::PromoteTo(sum_tag, hn::LoadU(byte_tag, input)), weight));
      high = hn::Add(high,
                     hn::Mul(hn::PromoteTo(sum_tag, hn::LoadU(byte_tag, input + lanes)), weight));
    }
    hn::StoreU(hn::DemoteTo(byte_tag, hn::ShiftRight<kWeightBits>(low)), byte_tag, target + x);
    hn::StoreU(hn::DemoteTo(byte_tag, hn::ShiftRight<kWeightBits>(high)), byte_tag,
               target + x + lanes);
  }
  for (; x < bytes; ++x) {
    std::int32_t sum = kHalf;
    for (int i = 0; i < count; ++i)
      sum += weights[i] * source[static_cast<std::size_t>(i) * pitch + x];
    target[x] = static_cast<std::uint8_t>(std::clamp(sum >> kWeightBits, 0, 255));
  }
}

}  // namespace cogserve::image::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace cogserve::image {

HWY_EXPORT(resample_row);
HWY_EXPORT(resample_column);

void resample_row(const std::uint8_t* source, const ResampleAxis& axis, std::uint8_t* target) {
  HWY_DYNAMIC_DISPATCH(resample_row)(source, axis, target);
}

void resample_column(const std::uint8_t* source, std::size_t pitch, const std::int32_t* weights,
                     int count, std::size_t bytes, std::uint8_t* target) {
  HWY_DYNAMIC_DISPATCH(resample_column)(source, pitch, weights, count, bytes, target);
}

}  // namespace cogserve::image
#endif  // HWY_ONCE
