// y = x W^T against plain loops, and bit for bit against itself.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "engine/backend/cpu/simd_name.hpp"
#include "engine/backend/cpu/simd_targets.hpp"  // before Highway's own
#include "hwy/targets.h"
#include "tests/engine/cpu_test_tools.hpp"

namespace cogserve {
namespace {

using testing::Matrix;
using testing::StoredTensor;

Matrix multiply(CpuBackend& backend, const Matrix& x, const Weight& weight, const Matrix* bias) {
  Matrix y(x.rows(), weight.out_features, 3);
  const Tensor bias_tensor = bias == nullptr ? Tensor{} : bias->tensor();
  backend.linear(x.tensor(), weight, bias == nullptr ? nullptr : &bias_tensor, y.tensor());
  EXPECT_TRUE(y.gaps_untouched());
  return y;
}

// Largest difference from f64 sums, in units of what rounding each product of the chain may cost.
double worst_error(const Matrix& x, const StoredTensor& w, const Matrix* bias, const Matrix& y) {
  double worst = 0.0;
  for (int64_t r = 0; r < y.rows(); ++r) {
    for (int64_t n = 0; n < y.cols(); ++n) {
      double sum = bias == nullptr ? 0.0 : bias->at(0, n);
      double magnitude = std::fabs(sum);
      for (int64_t k = 0; k < x.cols(); ++k) {
        sum += x.at(r, k) * w.at(n, k);
        magnitude += std::fabs(x.at(r, k) * w.at(n, k));
      }
      worst = std::max(worst, std::fabs(y.at(r, n) - sum) / (magnitude + 1e-30));
    }
  }
  return worst;
}

struct Kind {
  DType dtype;
  cpu::Products products = cpu::Products::kF32;
};

std::string name_of(const Kind& kind) {
  return std::string(dtype_name(kind.dtype)) +
         (kind.products == cpu::Products::kBF16 ? "_by_bf16" : "");
}

class CpuLinearOf : public ::testing::TestWithParam<Kind> {
 protected:
  // What is multiplied of x.
  Matrix multiplied(Matrix x) const {
    if (GetParam().products == cpu::Products::kF32) return x;
    for (int64_t r = 0; r < x.rows(); ++r) {
      for (int64_t k = 0; k < x.cols(); ++k) x.at(r, k) = to_float(to_bfloat16(x.at(r, k)));
    }
    return x;
  }
};

TEST_P(CpuLinearOf, equals_a_plain_loop_for_odd_shapes) {
  CpuBackend backend(2, GetParam().products);
  for (const int64_t rows : {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 97}) {
    for (const auto& [out, in] :
         {std::pair{1, 1}, {5, 3}, {16, 8}, {17, 31}, {48, 300}, {131, 77}}) {
      const Matrix x = Matrix::random(rows, in, rows + in, 5);
      const Matrix inputs = multiplied(x);
      const Matrix bias = Matrix::random(1, out, 7);
      const StoredTensor stored(Matrix::random(out, in, out), GetParam().dtype);
      const Weight weight = *backend.load_weight(dense_weight(stored.host()));
      EXPECT_LT(worst_error(inputs, stored, nullptr, multiply(backend, x, weight, nullptr)), 1e-6);
      EXPECT_LT(worst_error(inputs, stored, &bias, multiply(backend, x, weight, &bias)), 1e-6)
          << rows << " rows, " << out << " x " << in;
    }
  }
}

TEST_P(CpuLinearOf, gives_each_row_the_bits_it_has_alone) {
  CpuBackend alone(1, GetParam().products);
  const StoredTensor stored(Matrix::random(133, 531, 1), GetParam().dtype);
  const Matrix bias = Matrix::random(1, 133, 2);
  const Weight weight = *alone.load_weight(dense_weight(stored.host()));
  const Matrix all = Matrix::random(230, 531, 3);
  Matrix expected(all.rows(), 133);
  for (int64_t r = 0; r < all.rows(); ++r) {
    const Tensor bias_tensor = bias.tensor();
    alone.linear(all.tensor().slice_rows(r, 1), weight, &bias_tensor,
                 expected.tensor().slice_rows(r, 1));
  }
  for (const int threads : {1, 2, 3}) {
    CpuBackend backend(threads, GetParam().products);
    for (const int64_t rows : {2, 3, 4, 5, 6, 7, 8, 11, 12, 14, 16, 17, 64, 95, 230}) {
      Matrix y(rows, 133);
      const Tensor bias_tensor = bias.tensor();
      const int64_t begin = all.rows() - rows;
      backend.linear(all.tensor().slice_rows(begin, rows), weight, &bias_tensor, y.tensor());
      for (int64_t r = 0; r < rows; ++r) {
        ASSERT_TRUE(testing::same_bits(y.tensor().row<float>(r),
                                       expected.tensor().row<float>(begin + r), 133))
            << "row " << r << " of " << rows << ", " << threads << " threads";
      }
    }
  }
}

TEST_P(CpuLinearOf, has_the_same_bits_on_every_simd_target) {
  CpuBackend backend(1, GetParam().products);
  const StoredTensor stored(Matrix::random(50, 300, 1), GetParam().dtype);
  const Weight weight = *backend.load_weight(dense_weight(stored.host()));
  for (const int64_t rows : {1, 3, 6, 8, 12, 16, 20}) {
    const Matrix x = Matrix::random(rows, 300, 5);
    const Matrix expected = multiply(backend, x, weight, nullptr);
    std::set<std::string> tried;
    for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
      hwy::SetSupportedTargetsForTest(target);
      tried.insert(cpu::simd_name());
      EXPECT_TRUE(testing::same_bits(expected, multiply(backend, x, weight, nullptr)))
          << cpu::simd_name();
      hwy::SetSupportedTargetsForTest(0);
    }
    EXPECT_EQ(tried.size(), hwy::SupportedAndGeneratedTargets().size());
    // What every machine of an architecture has is the portable code, but on ARM it is NEON.
    EXPECT_TRUE(tried.contains("scalar") || tried.contains("emu128") || tried.contains("neon"));
  }
}

TEST_P(CpuLinearOf, multiplies_every_stored_value_exactly) {
  // One weight at a time: y = w. All finite 16-bit patterns, or a sample of f32.
  CpuBackend backend(2, GetParam().products);
  Matrix values(1 << 12, 16);
  for (int64_t i = 0; i < values.rows() * 16; ++i) {
    const uint16_t bits = static_cast<uint16_t>(i);
    float value =
        GetParam().dtype == DType::kF16 ? to_float(Float16{bits}) : to_float(BFloat16{bits});
    if (!std::isfinite(value)) value = 1.0f;
    // Instructions for products of bf16 take subnormal numbers for zero.
    if (GetParam().products == cpu::Products::kBF16 && !std::isnormal(value)) value = 0.0f;
    values.at(i / 16, i % 16) = value;
  }
  const StoredTensor stored(values, GetParam().dtype);
  const Weight weight = *backend.load_weight(dense_weight(stored.host()));
  Matrix x(16, 16);
  for (int64_t r = 0; r < 16; ++r) {
    for (int64_t c = 0; c < 16; ++c) x.at(r, c) = r == c ? 1.0f : 0.0f;
  }
  const Matrix y = multiply(backend, x, weight, nullptr);
  for (int64_t i = 0; i < values.rows() * 16; ++i) {
    ASSERT_EQ(y.at(i % 16, i / 16), values.at(i / 16, i % 16)) << "pattern " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(All, CpuLinearOf,
                         ::testing::Values(Kind{DType::kF32}, Kind{DType::kBF16}, Kind{DType::kF16},
                                           Kind{DType::kBF16, cpu::Products::kBF16}),
                         [](const auto& param) { return name_of(param.param); });

TEST(CpuLinear, lets_a_nan_poison_its_own_row_only) {
  CpuBackend backend(2);
  Matrix x = Matrix::random(9, 40, 1);
  x.at(4, 17) = std::nanf("");
  const StoredTensor stored(Matrix::random(20, 40, 1), DType::kBF16);
  const Matrix y = multiply(backend, x, *backend.load_weight(dense_weight(stored.host())), nullptr);
  for (int64_t r = 0; r < 9; ++r) {
    for (int64_t n = 0; n < 20; ++n) EXPECT_EQ(std::isnan(y.at(r, n)), r == 4);
  }
}

TEST(CpuLinear, multiplies_in_bf16_only_what_is_stored_in_it) {
  const Matrix x = Matrix::random(5, 48, 1);
  CpuBackend in_f32(1);
  CpuBackend in_bf16(1, cpu::Products::kBF16);
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const StoredTensor stored(Matrix::random(20, 48, 2), dtype);
    const Matrix expected =
        multiply(in_f32, x, *in_f32.load_weight(dense_weight(stored.host())), nullptr);
    const Matrix y =
        multiply(in_bf16, x, *in_bf16.load_weight(dense_weight(stored.host())), nullptr);
    EXPECT_EQ(testing::same_bits(y, expected), dtype != DType::kBF16) << dtype_name(dtype);
  }
}

TEST(CpuLinear, does_nothing_for_no_rows) {
  CpuBackend backend(2);
  const StoredTensor stored(Matrix::random(20, 40, 1), DType::kBF16);
  const Weight weight = *backend.load_weight(dense_weight(stored.host()));
  multiply(backend, Matrix(0, 40), weight, nullptr);
}

}  // namespace
}  // namespace cogserve
