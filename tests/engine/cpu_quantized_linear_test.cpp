// y = x W^T for quantised W: against sums of weight_value in f64, and bit for bit against itself.
#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <string>

#include "engine/backend/cpu/simd_name.hpp"
#include "engine/backend/cpu/simd_targets.hpp"  // before Highway's own
#include "hwy/targets.h"
#include "tests/engine/cpu_test_tools.hpp"
#include "tests/engine/random_weight.hpp"

namespace cogserve {
namespace {

using testing::Matrix;
using testing::RandomWeight;
using testing::WeightKind;

// Inputs of one block of x: a piece of at most 128 of one group.
constexpr int64_t kBlock = 128;

Matrix multiply(CpuBackend& backend, const Matrix& x, const Weight& weight, const Matrix* bias) {
  Matrix y(x.rows(), weight.out_features, 3);
  const Tensor bias_tensor = bias == nullptr ? Tensor{} : bias->tensor();
  backend.linear(x.tensor(), weight, bias == nullptr ? nullptr : &bias_tensor, y.tensor());
  EXPECT_TRUE(y.gaps_untouched());
  return y;
}

// The largest |x| that shares a scale with x[row, k].
double block_top(const Matrix& x, int64_t row, int64_t k, int64_t group_size) {
  const int64_t group = k / group_size * group_size;
  const int64_t begin = group + (k - group) / kBlock * kBlock;
  const int64_t end = std::min({begin + kBlock, group + group_size, x.cols()});
  double top = 0.0;
  for (int64_t i = begin; i < end; ++i) top = std::max(top, double{std::fabs(x.at(row, i))});
  return top;
}

// What rounding an element to `dtype` may change, relative to it.
double dtype_error(DType dtype) {
  return dtype == DType::kBF16 ? 0x1p-8 : dtype == DType::kF16 ? 0x1p-11 : 0.0;
}

// Largest |y - f64 sum| as a share of what is allowed. `exact`: the product itself must be right to
// f32; else x may be off by half a step of its block's scale, and W by its dtype's rounding.
double worst_share(const Matrix& x, const HostWeight& w, const Matrix* bias, const Matrix& y,
                   bool exact) {
  Matrix steps(x.rows(), x.cols());
  for (int64_t r = 0; r < x.rows(); ++r) {
    for (int64_t k = 0; k < x.cols(); ++k) {
      steps.at(r, k) =
          exact ? 0.0f : static_cast<float>(block_top(x, r, k, w.group_size) / 254 * 1.001);
    }
  }
  double worst = 0.0;
  for (int64_t n = 0; n < y.cols(); ++n) {
    std::vector<double> row(x.cols());
    for (int64_t k = 0; k < x.cols(); ++k) row[k] = weight_value(w, n, k);
    for (int64_t r = 0; r < y.rows(); ++r) {
      double sum = bias == nullptr ? 0.0 : bias->at(0, n);
      double allowed = 1e-6 * std::fabs(sum) + 1e-30;
      for (int64_t k = 0; k < x.cols(); ++k) {
        sum += x.at(r, k) * row[k];
        const double relative = 1e-6 + (exact ? 0.0 : dtype_error(w.dtype));
        allowed += std::fabs(row[k]) * (steps.at(r, k) + relative * std::fabs(x.at(r, k)));
      }
      worst = std::max(worst, std::fabs(y.at(r, n) - sum) / allowed);
    }
  }
  return worst;
}

// Numbers that int8 holds exactly: whole, with a 127 in each block.
Matrix whole_numbers(int64_t rows, int64_t cols, int64_t group_size, uint32_t seed) {
  Matrix x = Matrix::random(rows, cols, seed, 5);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t k = 0; k < cols; ++k) {
      const bool first = k % group_size % kBlock == 0;
      x.at(r, k) = first ? 127.0f : std::clamp(std::nearbyint(50.0f * x.at(r, k)), -127.0f, 127.0f);
    }
  }
  return x;
}

struct Shape {
  int64_t out;
  int64_t in;
};

class CpuQuantizedLinear : public ::testing::TestWithParam<WeightKind> {};

TEST_P(CpuQuantizedLinear, is_exact_for_whole_numbers_and_odd_shapes) {
  CpuBackend backend(2);
  for (const int64_t rows : {1, 2, 3, 4, 5, 6, 7, 13, 70}) {
    for (const auto& [out, in] : {Shape{1, 2}, {5, 6}, {16, 32}, {17, 130}, {48, 300}, {131, 78}}) {
      const Matrix x = whole_numbers(rows, in, GetParam().group_size, rows + in);
      const Matrix bias = Matrix::random(1, out, 7);
      WeightKind kind = GetParam();
      if (kind.format != WeightFormat::kCodebook4) kind.dtype = DType::kF32;
      const RandomWeight w(kind, out, in, out);
      const Weight weight = *backend.load_weight(w.host());
      EXPECT_LT(worst_share(x, w.host(), &bias, multiply(backend, x, weight, &bias), true), 1.0)
          << rows << " rows, " << out << " x " << in;
      EXPECT_LT(worst_share(x, w.host(), nullptr, multiply(backend, x, weight, nullptr), true),
                1.0);
    }
  }
}

TEST_P(CpuQuantizedLinear, is_within_half_a_step_of_the_rows_rounding) {
  CpuBackend backend(2);
  for (const int64_t rows : {1, 4, 11}) {
    for (const auto& [out, in] : {Shape{5, 6}, {17, 130}, {48, 300}, {33, 1792}}) {
      const Matrix x = Matrix::random(rows, in, rows + in, 5);
      const RandomWeight w(GetParam(), out, in, out);
      const Weight weight = *backend.load_weight(w.host());
      const Matrix y = multiply(backend, x, weight, nullptr);
      EXPECT_LT(worst_share(x, w.host(), nullptr, y, false), 1.0)
          << rows << " rows, " << out << " x " << in;
    }
  }
}

TEST_P(CpuQuantizedLinear, gives_each_row_the_bits_it_has_alone) {
  CpuBackend alone(1);
  const RandomWeight w(GetParam(), 133, 532, 1);
  const Matrix bias = Matrix::random(1, 133, 2);
  const Tensor bias_tensor = bias.tensor();
  const Weight weight = *alone.load_weight(w.host());
  const Matrix all = Matrix::random(230, 532, 3);
  Matrix expected(all.rows(), 133);
  for (int64_t r = 0; r < all.rows(); ++r) {
    alone.linear(all.tensor().slice_rows(r, 1), weight, &bias_tensor,
                 expected.tensor().slice_rows(r, 1));
  }
  for (const int threads : {1, 2, 3}) {
    CpuBackend backend(threads);
    for (const int64_t rows : {2, 3, 4, 5, 6, 7, 8, 11, 16, 64, 65, 230}) {
      Matrix y(rows, 133);
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

TEST_P(CpuQuantizedLinear, has_the_same_bits_on_every_simd_target) {
  CpuBackend backend(1);
  const RandomWeight w(GetParam(), 50, 300, 1);
  const Weight weight = *backend.load_weight(w.host());
  for (const int64_t rows : {1, 2, 3, 4, 5, 6, 7, 8, 21}) {
    Matrix x = Matrix::random(rows, 300, 5);
    for (int64_t k = 0; k < 300; ++k) {  // ties of the rounding
      if (k % 3 == 0) x.at(0, k) = 127.0f * static_cast<float>(k % 5 - 2) / 254.0f;
    }
    const Matrix expected = multiply(backend, x, weight, nullptr);
    std::set<std::string> tried;
    for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
      hwy::SetSupportedTargetsForTest(target);
      tried.insert(cpu::simd_name());
      EXPECT_TRUE(testing::same_bits(expected, multiply(backend, x, weight, nullptr)))
          << cpu::simd_name();
      hwy::SetSupportedTargetsForTest(0);
    }
    // What every machine of an architecture has is the portable code, but on ARM it is NEON.
    EXPECT_TRUE(tried.contains("scalar") || tried.contains("emu128") || tried.contains("neon"));
  }
}

TEST_P(CpuQuantizedLinear, lets_a_nan_or_an_infinity_poison_its_own_row_only) {
  CpuBackend backend(2);
  const RandomWeight w(GetParam(), 20, 300, 2);
  Matrix x = Matrix::random(9, 300, 1);
  x.at(4, 17) = std::nanf("");
  x.at(6, 299) = -INFINITY;
  const Matrix y = multiply(backend, x, *backend.load_weight(w.host()), nullptr);
  for (int64_t r = 0; r < 9; ++r) {
    for (int64_t n = 0; n < 20; ++n) {
      if (r == 4) {
        EXPECT_TRUE(std::isnan(y.at(r, n)));
      } else if (r == 6) {
        EXPECT_FALSE(std::isfinite(y.at(r, n)));
      } else {
        EXPECT_TRUE(std::isfinite(y.at(r, n)));
      }
    }
  }
}

TEST_P(CpuQuantizedLinear, takes_zeros_tiny_numbers_and_no_rows_as_they_are) {
  CpuBackend backend(2);
  const RandomWeight w(GetParam(), 20, 64, 2);
  const Weight weight = *backend.load_weight(w.host());
  Matrix x(3, 64);
  for (int64_t k = 0; k < 64; ++k) {
    x.at(0, k) = 0.0f;
    x.at(1, k) = 1e-40f;
    x.at(2, k) = 1e30f;
  }
  const Matrix y = multiply(backend, x, weight, nullptr);
  for (int64_t n = 0; n < 20; ++n) {
    EXPECT_EQ(y.at(0, n), 0.0f);
    EXPECT_NEAR(y.at(1, n), 0.0f, 1e-36f);
    EXPECT_TRUE(std::isfinite(y.at(2, n)));
  }
  multiply(backend, Matrix(0, 64), weight, nullptr);
}

TEST_P(CpuQuantizedLinear, takes_the_bytes_that_were_announced) {
  CpuBackend backend(1);
  for (const auto& [out, in] : {Shape{1, 2}, {17, 130}, {33, 1792}}) {
    const RandomWeight w(GetParam(), out, in, 1);
    EXPECT_EQ(backend.load_weight(w.host())->storage.bytes(), cpu::weight_bytes(w.host()));
  }
}

std::string kind_name(const ::testing::TestParamInfo<WeightKind>& info) {
  const WeightKind& kind = info.param;
  const std::string format = kind.format == WeightFormat::kInt4   ? "int4"
                             : kind.format == WeightFormat::kInt8 ? "int8"
                                                                  : "codebook4";
  return format + "_of_" + std::to_string(kind.group_size) + (kind.has_zeros ? "_with_zeros" : "") +
         "_as_" + std::string(dtype_name(kind.dtype)) +
         (kind.half_scales ? "_with_f16_scales" : "");
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, CpuQuantizedLinear,
    ::testing::Values(WeightKind{WeightFormat::kInt4, 128}, WeightKind{WeightFormat::kInt4, 32},
                      WeightKind{WeightFormat::kInt4, 50}, WeightKind{WeightFormat::kInt4, 200},
                      WeightKind{WeightFormat::kInt4, 7, true},
                      WeightKind{WeightFormat::kInt4, 128, true, DType::kF16},
                      WeightKind{WeightFormat::kInt4, 128, false, DType::kBF16, true},
                      WeightKind{WeightFormat::kInt4, 40, true, DType::kBF16, true},
                      WeightKind{WeightFormat::kInt8, 1 << 20},
                      WeightKind{WeightFormat::kInt8, 128, false, DType::kBF16},
                      WeightKind{WeightFormat::kCodebook4, 64, false, DType::kBF16},
                      WeightKind{WeightFormat::kCodebook4, 30, false, DType::kF16},
                      WeightKind{WeightFormat::kCodebook4, 64}),
    kind_name);

TEST(CpuQuantizedLinearScales, have_the_same_bits_in_f16_and_take_less_memory) {
  CpuBackend backend(1);
  const Matrix x = Matrix::random(9, 300, 5);
  for (const bool zeros : {false, true}) {
    const RandomWeight w({WeightFormat::kInt4, 32, zeros, DType::kBF16, true}, 50, 300, 1);
    HostWeight wide = w.host();
    wide.scale_dtype = DType::kF32;
    EXPECT_TRUE(testing::same_bits(multiply(backend, x, *backend.load_weight(w.host()), nullptr),
                                   multiply(backend, x, *backend.load_weight(wide), nullptr)));
    EXPECT_LT(cpu::weight_bytes(w.host()), cpu::weight_bytes(wide));
  }
}

// in is 1792, 4096, 14336 or 15360 in the published model; a few outputs will do.
TEST(CpuQuantizedLinearShapes, every_inner_size_of_the_published_model_is_exact) {
  CpuBackend backend(2);
  for (const int64_t in : {1792, 4096, 14336, 15360}) {
    for (const WeightKind& kind : {WeightKind{WeightFormat::kInt4, 128, false, DType::kF32, true},
                                   WeightKind{WeightFormat::kInt8, in}}) {
      const RandomWeight w(kind, 35, in, 3);
      const Matrix x = whole_numbers(17, in, kind.group_size, 4);
      const Matrix y = multiply(backend, x, *backend.load_weight(w.host()), nullptr);
      EXPECT_LT(worst_share(x, w.host(), nullptr, y, true), 1.0) << in;
    }
  }
}

TEST(CpuQuantizedLinearShapes, the_largest_codes_everywhere_do_not_saturate) {
  CpuBackend backend(1);
  for (const WeightFormat format : {WeightFormat::kInt4, WeightFormat::kInt8}) {
    for (const int sign : {-1, 1}) {
      const bool int4 = format == WeightFormat::kInt4;
      const int64_t in = 256;
      const std::vector<std::byte> codes(
          16 * in / (int4 ? 2 : 1),
          static_cast<std::byte>(int4 ? (sign < 0 ? 0x00 : 0xff) : sign * 127));
      const std::vector<float> scales(16 * 2, 1.0f);
      const std::vector<uint8_t> zeros(16 * 2, 0);
      HostWeight weight;
      weight.format = format;
      weight.out_features = 16;
      weight.in_features = in;
      weight.group_size = 128;
      weight.codes = codes.data();
      weight.scales = scales.data();
      weight.has_zeros = int4 && sign > 0;
      weight.zeros = zeros.data();
      Matrix x(5, in);
      for (int64_t r = 0; r < 5; ++r) {
        for (int64_t k = 0; k < in; ++k) x.at(r, k) = r % 2 == 0 ? 127.0f : -127.0f;
      }
      const Matrix y = multiply(backend, x, *backend.load_weight(weight), nullptr);
      for (int64_t r = 0; r < 5; ++r) {
        EXPECT_EQ(y.at(r, 3), weight_value(weight, 3, 0) * x.at(r, 0) * in);
      }
    }
  }
}

}  // namespace
}  // namespace cogserve
