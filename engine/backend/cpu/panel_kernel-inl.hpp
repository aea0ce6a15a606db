// The micro-kernel of matrix products: a few rows times panels of 16 columns, accumulators in
// registers. Compiled once for each target.
//
//   c[r, j] += a[r, 0] * b[0, j] + a[r, 1] * b[1, j] + ...      in this order, by fused adds
//   (of bf16 pairs: a[r, 1] * b[1, j] + a[r, 0] * b[0, j] + a[r, 3] * b[3, j] + ...)
//
// Each result is one chain over k in that order, whatever the number of rows, the vector
// width, and the places where the chain is cut into calls (an f32 accumulator survives being
// stored and loaded). This is what makes a row's bits independent of its batch.
#if defined(COGSERVE_CPU_PANEL_KERNEL_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef COGSERVE_CPU_PANEL_KERNEL_INL
#undef COGSERVE_CPU_PANEL_KERNEL_INL
#else
#define COGSERVE_CPU_PANEL_KERNEL_INL
#endif

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "engine/backend/cpu/panel.hpp"
#include "engine/backend/cpu/simd-inl.hpp"
#include "hwy/cache_control.h"

HWY_BEFORE_NAMESPACE();
namespace cogserve::cpu::HWY_NAMESPACE {

inline constexpr size_t kVectors = kPanelWidth / kLanes;

// Rows that are multiplied at once, at most: the more, the fewer times weights are widened.
inline constexpr size_t kTileRows = kLanes == 16 ? 8 : 6;

// Panels that one call works on side by side: enough accumulators to hide the latency of a fused
// add (4 cycles, 2 a cycle), few enough for sums and weights to stay in registers (16 on AVX2, 32
// on AVX-512 and NEON).
constexpr size_t panels_at_once(size_t rows) {
  constexpr size_t kAccumulators = kLanes == 16 ? 16 : kLanes == 8 ? 8 : 12;
  const size_t fit = kAccumulators / (rows * kVectors);
  return fit >= 8 ? 8 : fit >= 4 ? 4 : fit >= 2 ? 2 : 1;
}

// How far ahead weights are asked for, in elements (64 values of k). A single row reads several
// panels side by side, which the hardware foresees well enough by itself.
inline constexpr size_t kPrefetchAhead = 64 * kPanelWidth;

// The 16 values of one k as f32 vectors in column order.
HWY_INLINE void load_values(const float* values, F32Vec (&out)[kVectors]) {
  const F32 d;
  COGSERVE_UNROLL
  for (size_t v = 0; v < kVectors; ++v) out[v] = hn::LoadU(d, values + v * kLanes);
}

HWY_INLINE void load_values(const Float16* values, F32Vec (&out)[kVectors]) {
  const F32 d;
  const hn::Rebind<hwy::float16_t, F32> d16;
  const auto* halves = reinterpret_cast<const hwy::float16_t*>(values);
  COGSERVE_UNROLL
  for (size_t v = 0; v < kVectors; ++v) {
    out[v] = hn::PromoteTo(d, hn::LoadU(d16, halves + v * kLanes));
  }
}

// Columns j and j + 8 share a 32-bit word (see panel.hpp): a shift gives one, a mask the other.
HWY_INLINE void load_values(const BFloat16* values, F32Vec (&out)[kVectors]) {
  const hn::CappedTag<uint32_t, 8> d32;
  const hn::Repartition<float, decltype(d32)> d;
  constexpr size_t kWords = hn::MaxLanes(d32);
  const auto* words = reinterpret_cast<const uint32_t*>(values);
  const auto mask = hn::Set(d32, 0xffff0000u);
#if HWY_MAX_BYTES >= 64
  const auto word = hn::LoadU(d32, words);
  out[0] = hn::Combine(F32(), hn::BitCast(d, hn::And(word, mask)),
                       hn::BitCast(d, hn::ShiftLeft<16>(word)));
#else
  COGSERVE_UNROLL
  for (size_t v = 0; v < kVectors / 2; ++v) {
    const auto word = hn::LoadU(d32, words + v * kWords);
    out[v] = hn::BitCast(d, hn::ShiftLeft<16>(word));
    out[v + kVectors / 2] = hn::BitCast(d, hn::And(word, mask));
  }
#endif
}

// Halves of a pair that are multiplied one after the other: the second comes first, which is the
// order of AVX-512's own instruction (bf16_dot.hpp).
template <class T>
inline constexpr size_t kHalves = std::is_same_v<T, BFloat16Pair> ? 2 : 1;

template <class T>
HWY_INLINE void load_half(const T* values, size_t /*half*/, F32Vec (&out)[kVectors]) {
  load_values(values, out);
}
HWY_INLINE void load_half(const BFloat16Pair* pairs, size_t half, F32Vec (&out)[kVectors]) {
  const F32 d;
  const hn::Repartition<uint32_t, F32> d32;
  const auto* words = reinterpret_cast<const uint32_t*>(pairs);
  const auto mask = hn::Set(d32, 0xffff0000u);
  COGSERVE_UNROLL
  for (size_t v = 0; v < kVectors; ++v) {
    const auto word = hn::LoadU(d32, words + v * kLanes);
    out[v] = hn::BitCast(d, half == 0 ? hn::ShiftLeft<16>(word) : hn::And(word, mask));
  }
}

// In every lane. A pair is taken apart there, so that it comes from memory as a float does.
HWY_INLINE F32Vec broadcast_half(float value, size_t /*half*/) { return hn::Set(F32(), value); }
HWY_INLINE F32Vec broadcast_half(BFloat16Pair pair, size_t half) {
  const F32 d;
  const hn::Repartition<uint32_t, F32> d32;
  const auto word = hn::Set(d32, pair.bits);
  return hn::BitCast(
      d, half == 0 ? hn::ShiftLeft<16>(word) : hn::And(word, hn::Set(d32, 0xffff0000u)));
}

// `a` as the kernel reads it: interleaved rows are read as one stream.
struct InterleavedRows {
  template <size_t kRows, class A>
  static HWY_INLINE A at(const A* a, size_t /*row_stride*/, size_t r, size_t k) {
    return a[k * kRows + r];
  }
};
struct StridedRows {
  template <size_t kRows, class A>
  static HWY_INLINE A at(const A* a, size_t row_stride, size_t r, size_t k) {
    return a[r * row_stride + k];
  }
};

// The first kPanels panels of a product with kRows rows.
template <class Rows, size_t kRows, size_t kPanels, class B, class A>
HWY_INLINE void multiply_panels(const Product<B, A>& product) {
  const F32 d;
  const A* HWY_RESTRICT a = product.a;
  const B* HWY_RESTRICT b = product.b;
  const size_t a_stride = product.a_row_stride;
  const size_t b_stride = product.b_panel_stride;
  const size_t depth = product.depth;
  const auto c_at = [&product](size_t r, size_t p, size_t v) {
    return product.c + r * product.c_row_stride + p * product.c_panel_stride + v * kLanes;
  };
  F32Vec sum[kRows][kPanels][kVectors];
  COGSERVE_UNROLL
  for (size_t r = 0; r < kRows; ++r) {
    COGSERVE_UNROLL
    for (size_t p = 0; p < kPanels; ++p) {
      COGSERVE_UNROLL
      for (size_t v = 0; v < kVectors; ++v) {
        sum[r][p][v] = product.accumulate ? hn::LoadU(d, c_at(r, p, v)) : hn::Zero(d);
      }
    }
  }
  for (size_t k = 0; k < depth; ++k) {
    COGSERVE_UNROLL
    for (size_t i = 0; i < kHalves<B>; ++i) {
      const size_t half = kHalves<B> - 1 - i;
      F32Vec values[kPanels][kVectors];
      COGSERVE_UNROLL
      for (size_t p = 0; p < kPanels; ++p) {
        if (kRows > 1 && half == 0) hwy::Prefetch(b + p * b_stride + kPrefetchAhead);
        load_half(b + p * b_stride, half, values[p]);
      }
      COGSERVE_UNROLL
      for (size_t r = 0; r < kRows; ++r) {
        const F32Vec x = broadcast_half(Rows::template at<kRows>(a, a_stride, r, k), half);
        COGSERVE_UNROLL
        for (size_t p = 0; p < kPanels; ++p) {
          COGSERVE_UNROLL
          for (size_t v = 0; v < kVectors; ++v) {
            sum[r][p][v] = fused_add(x, values[p][v], sum[r][p][v]);
          }
        }
      }
    }
    b += kPanelWidth;
  }
  COGSERVE_UNROLL
  for (size_t r = 0; r < kRows; ++r) {
    COGSERVE_UNROLL
    for (size_t p = 0; p < kPanels; ++p) {
      COGSERVE_UNROLL
      for (size_t v = 0; v < kVectors; ++v) hn::StoreU(sum[r][p][v], d, c_at(r, p, v));
    }
  }
}

template <class Rows, size_t kRows, class B, class A>
void multiply_row_tile(const Product<B, A>& product) {
  constexpr size_t kPanels = panels_at_once(kRows);
  size_t p = 0;
  for (; p + kPanels <= product.panels; p += kPanels) {
    multiply_panels<Rows, kRows, kPanels>(product.from_panel(p));
  }
  if constexpr (kPanels > 1) {
    for (; p < product.panels; ++p) multiply_panels<Rows, kRows, 1>(product.from_panel(p));
  }
}

// 1 to kMostRows rows.
template <class Rows, size_t kMostRows = kTileRows, class B, class A>
void multiply_tile(size_t rows, const Product<B, A>& product) {
  if constexpr (kMostRows > 1) {
    if (rows < kMostRows) return multiply_tile<Rows, kMostRows - 1>(rows, product);
  }
  multiply_row_tile<Rows, kMostRows>(product);
}

}  // namespace cogserve::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
