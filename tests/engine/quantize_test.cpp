#include "engine/model/quantize.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "engine/base/error.hpp"

namespace cogserve {
namespace {

using ::testing::HasSubstr;

// An f32 matrix that owns its numbers.
struct Matrix {
  Matrix(int64_t out, int64_t in) : shape{out, in}, values(out * in) {}

  static Matrix random(int64_t out, int64_t in, uint32_t seed) {
    Matrix matrix(out, in);
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal(0.0f, 0.03f);
    for (float& value : matrix.values) value = normal(generator);
    return matrix;
  }

  HostTensor host() const {
    return {reinterpret_cast<const std::byte*>(values.data()), DType::kF32, shape};
  }
  float at(int64_t row, int64_t col) const { return values[row * shape[1] + col]; }

  std::vector<int64_t> shape;
  std::vector<float> values;
};

QuantizedMatrix quantize(const Matrix& matrix, WeightFormat format, int threads = 1) {
  return QuantizedMatrix::quantize(matrix.host(), "w", format, threads).value();
}

double error_of_group(const std::vector<float>& group, float scale) {
  double sum = 0.0;
  for (const float value : group) {
    const double level = scale == 0.0f ? 0.0 : std::nearbyint(value * (1.0f / scale));
    const double error = value - std::clamp(level, -8.0, 7.0) * scale;
    sum += error * error;
  }
  return sum;
}

// The grid's best scale by a plain search in f64; a near tie may fall either way, so errors are
// compared and not scales.
double least_error(const std::vector<float>& group) {
  float extreme = 0.0f;
  for (const float value : group) {
    if (std::fabs(value) > std::fabs(extreme)) extreme = value;
  }
  double least = std::numeric_limits<double>::infinity();
  for (const float clip : {1.0f, 0.96f, 0.92f, 0.88f, 0.84f, 0.80f, 0.75f, 0.70f}) {
    for (const float scale : {std::fabs(extreme) * clip / 7.0f,
                              std::fabs(extreme) * clip / (extreme < 0 ? 8.0f : -8.0f)}) {
      least = std::min(least, error_of_group(group, to_float(to_float16(scale))));
    }
  }
  return least;
}

std::vector<float> group_of(const Matrix& matrix, int64_t row, int64_t group) {
  std::vector<float> values;
  const int64_t begin = group * kInt4GroupSize;
  for (int64_t i = begin; i < std::min(begin + kInt4GroupSize, matrix.shape[1]); ++i) {
    values.push_back(matrix.at(row, i));
  }
  return values;
}

TEST(QuantizeInt4, codes_are_the_rounded_weights_of_the_stored_scale) {
  const Matrix matrix = Matrix::random(9, 300, 1);
  const QuantizedMatrix quantized = quantize(matrix, WeightFormat::kInt4);
  const HostWeight weight = quantized.weight();
  ASSERT_EQ(weight.groups(), 3);
  for (int64_t row = 0; row < 9; ++row) {
    for (int64_t i = 0; i < 300; ++i) {
      const float scale = weight.scales[row * 3 + i / 128];
      ASSERT_EQ(to_float(to_float16(scale)), scale) << "f16 holds it";
      const float level =
          std::clamp(std::nearbyint(matrix.at(row, i) * (1.0f / scale)), -8.0f, 7.0f);
      ASSERT_EQ(weight_value(weight, row, i), level * scale) << row << ", " << i;
    }
  }
}

TEST(QuantizeInt4, the_scale_is_the_best_of_the_grid) {
  const Matrix matrix = Matrix::random(40, 300, 2);
  const QuantizedMatrix quantized = quantize(matrix, WeightFormat::kInt4);
  const HostWeight weight = quantized.weight();
  for (int64_t row = 0; row < 40; ++row) {
    for (int64_t group = 0; group < 3; ++group) {
      const std::vector<float> values = group_of(matrix, row, group);
      const double least = least_error(values);
      EXPECT_NEAR(error_of_group(values, weight.scales[row * 3 + group]), least, 1e-5 * least);
    }
  }
}

TEST(QuantizeInt4, is_never_worse_than_plain_rounding_and_usually_better) {
  const Matrix matrix = Matrix::random(64, 1024, 3);
  const QuantizedMatrix quantized = quantize(matrix, WeightFormat::kInt4);
  const HostWeight weight = quantized.weight();
  double found = 0.0;
  double plain = 0.0;
  for (int64_t row = 0; row < 64; ++row) {
    for (int64_t group = 0; group < 8; ++group) {
      const std::vector<float> values = group_of(matrix, row, group);
      float largest = 0.0f;
      for (const float value : values) largest = std::max(largest, std::fabs(value));
      const double error = error_of_group(values, weight.scales[row * 8 + group]);
      const double rounded = error_of_group(values, to_float(to_float16(largest / 7.0f)));
      EXPECT_LE(error, rounded * (1 + 1e-5));
      found += error;
      plain += rounded;
    }
  }
  EXPECT_LT(found, 0.9 * plain);
}

TEST(QuantizeInt4, the_level_of_minus_eight_takes_the_larger_side) {
  for (const float sign : {-1.0f, 1.0f}) {
    Matrix matrix(1, 128);
    for (int64_t i = 0; i < 128; ++i) matrix.values[i] = sign * static_cast<float>(i % 16 - 8);
    const QuantizedMatrix quantized = quantize(matrix, WeightFormat::kInt4);
    EXPECT_EQ(quantized.weight().scales[0], sign);
    for (int64_t i = 0; i < 128; ++i) {
      EXPECT_EQ(weight_value(quantized.weight(), 0, i), matrix.values[i]);
    }
  }
}

TEST(QuantizeInt4, groups_of_zeros_stay_zero) {
  Matrix matrix = Matrix::random(2, 256, 4);
  std::fill_n(matrix.values.begin(), 128, 0.0f);
  const QuantizedMatrix quantized = quantize(matrix, WeightFormat::kInt4);
  for (int64_t i = 0; i < 128; ++i) EXPECT_EQ(weight_value(quantized.weight(), 0, i), 0.0f);
  EXPECT_NE(weight_value(quantized.weight(), 1, 5), 0.0f);
}

TEST(QuantizeInt4, weights_that_f16_scales_cannot_hold_are_refused_or_zero) {
  Matrix matrix = Matrix::random(3, 128, 4);
  matrix.values[130] = 5e5f;
  const auto refused =
      QuantizedMatrix::quantize(matrix.host(), "lm_head.weight", WeightFormat::kInt4, 2);
  EXPECT_EQ(error_reason(refused.status()), "WEIGHT_RANGE");
  EXPECT_THAT(std::string(refused.status().message()),
              HasSubstr("tensor 'lm_head.weight': element [1, 2]"));
  for (float& value : matrix.values) value = 1e-20f;
  EXPECT_EQ(weight_value(quantize(matrix, WeightFormat::kInt4).weight(), 0, 0), 0.0f);
}

TEST(QuantizeInt4, an_odd_number_of_inputs_is_refused) {
  const Matrix matrix = Matrix::random(3, 7, 4);
  const auto refused = QuantizedMatrix::quantize(matrix.host(), "w", WeightFormat::kInt4, 1);
  EXPECT_EQ(error_reason(refused.status()), "WEIGHT_FORMAT");
}

TEST(QuantizeInt8, codes_are_the_rounded_weights_of_the_rows_scale) {
  Matrix matrix = Matrix::random(9, 301, 1);
  std::fill_n(matrix.values.begin() + 2 * 301, 301, 0.0f);
  const QuantizedMatrix quantized = quantize(matrix, WeightFormat::kInt8);
  const HostWeight weight = quantized.weight();
  for (int64_t row = 0; row < 9; ++row) {
    float largest = 0.0f;
    for (int64_t i = 0; i < 301; ++i) largest = std::max(largest, std::fabs(matrix.at(row, i)));
    ASSERT_EQ(weight.scales[row], largest / 127.0f);
    for (int64_t i = 0; i < 301; ++i) {
      const float level =
          largest == 0.0f ? 0.0f : std::nearbyint(matrix.at(row, i) * (1.0f / weight.scales[row]));
      ASSERT_EQ(static_cast<int8_t>(weight.codes[row * 301 + i]), static_cast<int>(level));
    }
  }
}

class QuantizeEither : public ::testing::TestWithParam<WeightFormat> {};

TEST_P(QuantizeEither, a_nan_or_an_infinity_is_refused_with_its_place) {
  for (const float bad : {std::nanf(""), -INFINITY}) {
    Matrix matrix = Matrix::random(70, 128, 4);
    matrix.values[65 * 128 + 3] = bad;
    matrix.values[68 * 128 + 9] = bad;
    const auto refused = QuantizedMatrix::quantize(matrix.host(), "a.weight", GetParam(), 3);
    EXPECT_EQ(error_reason(refused.status()), "WEIGHT_NOT_FINITE");
    EXPECT_EQ(error_field(refused.status()), "a.weight");
    EXPECT_THAT(std::string(refused.status().message()), HasSubstr("element [65, 3]"));
  }
}

TEST_P(QuantizeEither, threads_change_nothing) {
  const Matrix matrix = Matrix::random(100, 300, 5);
  const QuantizedMatrix one = quantize(matrix, GetParam(), 1);
  for (const int threads : {0, 2, 3, 7}) {
    const QuantizedMatrix many = quantize(matrix, GetParam(), threads);
    const HostWeight a = one.weight();
    const HostWeight b = many.weight();
    const size_t bytes = GetParam() == WeightFormat::kInt4 ? 100 * 150 : 100 * 300;
    EXPECT_EQ(std::memcmp(a.codes, b.codes, bytes), 0);
    EXPECT_EQ(std::memcmp(a.scales, b.scales, 100 * a.groups() * sizeof(float)), 0);
  }
}

TEST_P(QuantizeEither, every_dtype_is_read_as_its_values) {
  const Matrix matrix = Matrix::random(5, 256, 6);
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    Matrix rounded(5, 256);
    std::vector<uint16_t> halves;
    for (size_t i = 0; i < matrix.values.size(); ++i) {
      const float value = matrix.values[i];
      const bool bf16 = dtype == DType::kBF16;
      halves.push_back(bf16 ? to_bfloat16(value).bits : to_float16(value).bits);
      rounded.values[i] = bf16 ? to_float(to_bfloat16(value)) : to_float(to_float16(value));
    }
    const HostTensor host{reinterpret_cast<const std::byte*>(halves.data()), dtype, {5, 256}};
    const auto from_halves = QuantizedMatrix::quantize(host, "w", GetParam(), 1).value();
    const QuantizedMatrix expected = quantize(rounded, GetParam());
    for (int64_t i = 0; i < 256; ++i) {
      ASSERT_EQ(weight_value(from_halves.weight(), 3, i), weight_value(expected.weight(), 3, i));
    }
  }
}

TEST_P(QuantizeEither, the_error_is_the_distance_of_what_is_stored) {
  const Matrix matrix = Matrix::random(40, 256, 7);
  const QuantizedMatrix quantized = quantize(matrix, GetParam());
  double error = 0.0;
  double total = 0.0;
  for (int64_t row = 0; row < 40; ++row) {
    for (int64_t i = 0; i < 256; ++i) {
      const double difference =
          double{matrix.at(row, i)} - weight_value(quantized.weight(), row, i);
      error += difference * difference;
      total += double{matrix.at(row, i)} * matrix.at(row, i);
    }
  }
  const SquaredError found = squared_error(matrix.host(), quantized.weight(), 2);
  EXPECT_NEAR(found.relative(), std::sqrt(error / total), 1e-12);
  EXPECT_LT(found.relative(), GetParam() == WeightFormat::kInt4 ? 0.12 : 0.01);
  EXPECT_EQ(SquaredError{}.relative(), 0.0);
}

TEST_P(QuantizeEither, no_bit_of_the_result_can_change_unseen) {
  const bool int4 = GetParam() == WeightFormat::kInt4;
  Matrix matrix = Matrix::random(6, 300, 8);
  std::fill_n(matrix.values.begin() + 2 * 300, 300, 0.0f);
  for (int i = 0; i < 300; ++i) matrix.values[3 * 300 + i] *= 1e-9f;  // whose f16 scale is zero
  const QuantizedMatrix quantized = quantize(matrix, GetParam());
  HostWeight weight = quantized.weight();
  ASSERT_TRUE(is_quantized_from(matrix.host(), weight, 2));

  std::vector<std::byte> codes(weight.codes, weight.codes + 6 * (int4 ? 150 : 300));
  weight.codes = codes.data();
  for (std::byte& code : codes) {
    for (int bit = 0; bit < 8; ++bit) {
      code ^= std::byte{1} << bit;
      ASSERT_FALSE(is_quantized_from(matrix.host(), weight, 1)) << &code - codes.data();
      code ^= std::byte{1} << bit;
    }
  }
  std::vector<float> scales(weight.scales, weight.scales + 6 * weight.groups());
  weight.scales = scales.data();
  for (float& scale : scales) {
    const float whole = scale;
    for (int bit = 0; bit < (int4 ? 16 : 32); ++bit) {
      const uint32_t bits = std::bit_cast<uint32_t>(whole) ^ 1u << bit;
      const auto half = static_cast<uint16_t>(to_float16(whole).bits ^ 1u << bit);
      scale = int4 ? to_float(Float16{half}) : std::bit_cast<float>(bits);
      ASSERT_FALSE(is_quantized_from(matrix.host(), weight, 1)) << whole << ", bit " << bit;
    }
    scale = whole;
  }
  EXPECT_TRUE(is_quantized_from(matrix.host(), weight, 1));
}

TEST_P(QuantizeEither, nothing_is_quantised_from_what_is_refused) {
  Matrix matrix = Matrix::random(4, 128, 9);
  const QuantizedMatrix quantized = quantize(matrix, GetParam());
  for (const float bad : {std::nanf(""), INFINITY}) {
    matrix.values[200] = bad;
    EXPECT_FALSE(is_quantized_from(matrix.host(), quantized.weight(), 1));
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, QuantizeEither,
                         ::testing::Values(WeightFormat::kInt4, WeightFormat::kInt8),
                         [](const auto& param) {
                           return param.param == WeightFormat::kInt4 ? "int4" : "int8";
                         });

}  // namespace
}  // namespace cogserve
