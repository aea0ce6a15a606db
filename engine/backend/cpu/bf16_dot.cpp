#include "engine/backend/cpu/bf16_dot.hpp"

#include "engine/backend/cpu/unroll.hpp"
#include "engine/base/check.hpp"
#include "hwy/cache_control.h"
#include "hwy/detect_compiler_arch.h"

#if HWY_ARCH_X86_64
#include <immintrin.h>

// Only what stands between these two may use the instruction sets that they name.
HWY_PUSH_ATTRIBUTES("avx512f,avx512bf16")
namespace cogserve::cpu {
namespace {

// How far ahead weights are asked for, in elements; a single row's reading the hardware foresees.
constexpr size_t kPrefetchAhead = 64 * kPanelWidth;

// Sums in up to 28 of the 32 registers.
constexpr size_t panels_at_once(size_t rows) {
  return rows <= 3 ? 8 : rows <= 6 ? 4 : rows <= 14 ? 2 : 1;
}

// The first kPanels panels of a product with kRows rows.
template <size_t kRows, size_t kPanels>
void multiply_panels(const PairProduct& product) {
  const BFloat16Pair* a = product.a;
  const BFloat16Pair* b = product.b;
  const size_t b_stride = product.b_panel_stride;
  const auto c_at = [&product](size_t r, size_t p) {
    return product.c + r * product.c_row_stride + p * product.c_panel_stride;
  };
  __m512 sum[kRows][kPanels];
  COGSERVE_UNROLL_WHOLE
  for (size_t r = 0; r < kRows; ++r) {
    COGSERVE_UNROLL_WHOLE
    for (size_t p = 0; p < kPanels; ++p) {
      sum[r][p] = product.accumulate ? _mm512_loadu_ps(c_at(r, p)) : _mm512_setzero_ps();
    }
  }
  for (size_t k = 0; k < product.depth; ++k) {
    __m512bh values[kPanels];
    COGSERVE_UNROLL_WHOLE
    for (size_t p = 0; p < kPanels; ++p) {
      if constexpr (kRows > 1) hwy::Prefetch(b + p * b_stride + kPrefetchAhead);
      values[p] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b + p * b_stride));
    }
    COGSERVE_UNROLL_WHOLE
    for (size_t r = 0; r < kRows; ++r) {
      const auto x = reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(a[r].bits)));
      COGSERVE_UNROLL_WHOLE
      for (size_t p = 0; p < kPanels; ++p) sum[r][p] = _mm512_dpbf16_ps(sum[r][p], values[p], x);
    }
    a += kRows;
    b += kPanelWidth;
  }
  COGSERVE_UNROLL_WHOLE
  for (size_t r = 0; r < kRows; ++r) {
    COGSERVE_UNROLL_WHOLE
    for (size_t p = 0; p < kPanels; ++p) _mm512_storeu_ps(c_at(r, p), sum[r][p]);
  }
}

template <size_t kRows>
void multiply_rows(const PairProduct& product) {
  constexpr size_t kPanels = panels_at_once(kRows);
  size_t p = 0;
  for (; p + kPanels <= product.panels; p += kPanels) {
    multiply_panels<kRows, kPanels>(product.from_panel(p));
  }
  if constexpr (kPanels > 1) {
    for (; p < product.panels; ++p) multiply_panels<kRows, 1>(product.from_panel(p));
  }
}

template <size_t kMostRows = kMostDotRows>
void multiply(size_t rows, const PairProduct& product) {
  if constexpr (kMostRows > 1) {
    if (rows < kMostRows) return multiply<kMostRows - 1>(rows, product);
  }
  multiply_rows<kMostRows>(product);
}

}  // namespace
}  // namespace cogserve::cpu
HWY_POP_ATTRIBUTES

namespace cogserve::cpu {

bool has_bf16_dot() {
  static const bool has = __builtin_cpu_supports("avx512bf16");
  return has;
}

void multiply_dot_tile(size_t rows, const PairProduct& product) { multiply(rows, product); }

}  // namespace cogserve::cpu

#else

namespace cogserve::cpu {

bool has_bf16_dot() { return false; }

void multiply_dot_tile(size_t /*rows*/, const PairProduct& /*product*/) {
  check(false, "multiply_dot_tile: this processor has no such instruction");
}

}  // namespace cogserve::cpu

#endif
