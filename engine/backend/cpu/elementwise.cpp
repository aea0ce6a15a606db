#include "engine/backend/cpu/elementwise.hpp"

#include "engine/backend/cpu/simd_targets.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/backend/cpu/elementwise.cpp"
#include "hwy/foreach_target.h"  // compiles this file once for each target
// (and these after it)
#include <cstring>

#include "engine/backend/cpu/parallel_rows.hpp"
#include "engine/backend/cpu/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace cogserve::cpu::HWY_NAMESPACE {

HWY_INLINE F32Vec silu(F32Vec x) {
  const F32 d;
  const F32Vec one = hn::Set(d, 1.0f);
  // sigmoid(x) = 1 / (1 + e^-x) = e^x / (1 + e^x): whichever does not overflow.
  const F32Vec e = exp_nonpositive(hn::Neg(hn::Abs(x)));
  const F32Vec numerator = hn::IfThenElse(hn::Lt(x, hn::Zero(d)), e, one);
  return hn::Mul(x, hn::Div(numerator, hn::Add(one, e)));
}

// Phi(-|x|) = e^(-x^2 / 2) * R(|x|). (1 + t) R(t) is a smooth curve, fitted by a polynomial in
// (t - 4) / (t + 4) on Chebyshev nodes over [0, 14] to 3e-9; beyond, e^(-x^2 / 2) is 0 in f32.
HWY_INLINE F32Vec gelu(F32Vec x) {
  constexpr float kCoefficients[] = {-7.341340565e-5f, -6.448406998e-5f, 6.917958321e-4f,
                                     -3.011153126e-4f, -5.003000057e-3f, 1.793962901e-2f,
                                     -3.219762573e-2f, 2.860002623e-2f,  1.399962355e-2f,
                                     -9.670346799e-2f, 4.720532065e-1f};
  const F32 d;
  const F32Vec one = hn::Set(d, 1.0f);
  const F32Vec four = hn::Set(d, 4.0f);
  const F32Vec t = hn::Abs(x);
  const F32Vec u = hn::Div(hn::Sub(t, four), hn::Add(t, four));
  F32Vec p = hn::Set(d, kCoefficients[0]);
  COGSERVE_UNROLL
  for (size_t i = 1; i < 11; ++i) p = hn::MulAdd(p, u, hn::Set(d, kCoefficients[i]));
  // x^2 is rounded before e^() multiplies its error by up to 87: put back what was lost.
  const F32Vec square = hn::Mul(x, x);
  const F32Vec lost = fused_add(x, x, hn::Neg(square));
  const F32Vec half = hn::Set(d, -0.5f);
  const F32Vec rough = exp_nonpositive(hn::Mul(half, square));
  const F32Vec e = hn::MulAdd(rough, hn::Mul(half, lost), rough);
  const F32Vec below = hn::Div(hn::Mul(e, p), hn::Add(one, t));  // Phi(-t)
  // An x beyond the range of e^() has Phi 0 or 1, also where x^2 overflows and `lost` is NaN.
  const auto far = hn::Gt(t, hn::Set(d, 14.0f));
  const F32Vec tail = hn::IfThenZeroElse(far, below);
  const F32Vec phi = hn::IfThenElse(hn::Lt(x, hn::Zero(d)), tail, hn::Sub(one, tail));
  // -inf * 0 would be NaN; the limit is 0.
  return hn::IfThenZeroElse(hn::And(far, hn::Lt(x, hn::Zero(d))), hn::Mul(x, phi));
}

void add_rows(const Tensor& x, const Tensor& y, size_t begin, size_t end) {
  const size_t n = x.cols;
  for (size_t row = begin; row < end; ++row) {
    const float* from = x.row<float>(row);
    float* to = y.row<float>(row);
    for (size_t i = 0; i < n; i += kLanes) {
      const size_t count = HWY_MIN(kLanes, n - i);
      store_some(hn::Add(load_some(to + i, count), load_some(from + i, count)), to + i, count);
    }
  }
}

void silu_mul_rows(const Tensor& gate, const Tensor& up, const Tensor& y, size_t begin,
                   size_t end) {
  const size_t n = y.cols;
  for (size_t row = begin; row < end; ++row) {
    const float* g = gate.row<float>(row);
    const float* u = up.row<float>(row);
    float* to = y.row<float>(row);
    for (size_t i = 0; i < n; i += kLanes) {
      const size_t count = HWY_MIN(kLanes, n - i);
      const F32Vec activated = silu(load_some(g + i, count));
      store_some(hn::Mul(activated, load_some(u + i, count)), to + i, count);
    }
  }
}

void gelu_rows(const Tensor& x, size_t begin, size_t end) {
  const size_t n = x.cols;
  for (size_t row = begin; row < end; ++row) {
    float* values = x.row<float>(row);
    for (size_t i = 0; i < n; i += kLanes) {
      const size_t count = HWY_MIN(kLanes, n - i);
      store_some(gelu(load_some(values + i, count)), values + i, count);
    }
  }
}

}  // namespace cogserve::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace cogserve::cpu {
namespace {

HWY_EXPORT(add_rows);
HWY_EXPORT(silu_mul_rows);
HWY_EXPORT(gelu_rows);

// Row `from` of x widened to f32.
void copy_row(const Tensor& x, int64_t from, float* to) {
  switch (x.dtype) {
    case DType::kBF16: {
      const BFloat16* row = x.row<BFloat16>(from);
      for (int64_t i = 0; i < x.cols; ++i) to[i] = to_float(row[i]);
      break;
    }
    case DType::kF16: {
      const Float16* row = x.row<Float16>(from);
      for (int64_t i = 0; i < x.cols; ++i) to[i] = to_float(row[i]);
      break;
    }
    default:
      std::memcpy(to, x.row<float>(from), x.cols * sizeof(float));
      break;
  }
}

}  // namespace

void embed(const Tensor& table, std::span<const int32_t> ids, const Tensor& y, ThreadPool& pool) {
  parallel_rows(pool, y.rows, y.cols, [&](size_t begin, size_t end) {
    for (size_t row = begin; row < end; ++row) {
      if (ids[row] >= 0) copy_row(table, ids[row], y.row<float>(row));
    }
  });
}

void gather_rows(const Tensor& x, std::span<const int32_t> rows, const Tensor& y,
                 ThreadPool& pool) {
  parallel_rows(pool, y.rows, y.cols, [&](size_t begin, size_t end) {
    for (size_t row = begin; row < end; ++row) copy_row(x, rows[row], y.row<float>(row));
  });
}

void copy(const Tensor& x, const Tensor& y, ThreadPool& pool) {
  parallel_rows(pool, y.rows, y.cols, [&](size_t begin, size_t end) {
    for (size_t row = begin; row < end; ++row) copy_row(x, row, y.row<float>(row));
  });
}

void add(const Tensor& x, const Tensor& y, ThreadPool& pool) {
  parallel_rows(pool, y.rows, y.cols, [&](size_t begin, size_t end) {
    HWY_DYNAMIC_DISPATCH(add_rows)(x, y, begin, end);
  });
}

void silu_mul(const Tensor& gate, const Tensor& up, const Tensor& y, ThreadPool& pool) {
  parallel_rows(pool, y.rows, y.cols, [&](size_t begin, size_t end) {
    HWY_DYNAMIC_DISPATCH(silu_mul_rows)(gate, up, y, begin, end);
  });
}

void gelu(const Tensor& x, ThreadPool& pool) {
  parallel_rows(pool, x.rows, x.cols, [&](size_t begin, size_t end) {
    HWY_DYNAMIC_DISPATCH(gelu_rows)(x, begin, end);
  });
}

}  // namespace cogserve::cpu
#endif  // HWY_ONCE
