#include "engine/base/host_weight.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace cogserve {
namespace {

std::vector<std::byte> bytes_of(std::initializer_list<int> values) {
  std::vector<std::byte> bytes;
  for (int value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

TEST(Float16Rounding, every_f16_comes_back_as_itself) {
  for (unsigned bits = 0; bits < 0x10000u; ++bits) {
    const float value = to_float(Float16{static_cast<uint16_t>(bits)});
    const Float16 again = to_float16(value);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(to_float(again))) << bits;
    } else {
      EXPECT_EQ(again.bits, bits);
    }
  }
}

TEST(Float16Rounding, halfway_goes_to_even_and_a_hair_beyond_goes_on) {
  for (unsigned bits = 0; bits < 0x7bffu; ++bits) {  // each finite value and the one above it
    const float low = to_float(Float16{static_cast<uint16_t>(bits)});
    const float high = to_float(Float16{static_cast<uint16_t>(bits + 1)});
    const float middle = low + (high - low) / 2;
    const unsigned even = bits % 2 == 0 ? bits : bits + 1;
    ASSERT_EQ(to_float16(middle).bits, even);
    ASSERT_EQ(to_float16(std::nextafter(middle, 0.0f)).bits, bits);
    ASSERT_EQ(to_float16(std::nextafter(middle, 1e9f)).bits, bits + 1);
    ASSERT_EQ(to_float16(-middle).bits, even | 0x8000u);
  }
}

TEST(Float16Rounding, what_is_too_large_becomes_infinity) {
  EXPECT_EQ(to_float16(65519.0f).bits, 0x7bffu);
  EXPECT_EQ(to_float16(65520.0f).bits, 0x7c00u);
  EXPECT_EQ(to_float16(-std::numeric_limits<float>::infinity()).bits, 0xfc00u);
}

TEST(HostWeight, int4_counts_from_eight_and_the_even_input_is_the_low_nibble) {
  const auto codes = bytes_of({0xf0, 0x98, 0x07, 0x21});
  const std::vector<float> scales = {0.5f, 2.0f};
  const HostWeight weight{.format = WeightFormat::kInt4,
                          .dense = {},
                          .out_features = 2,
                          .in_features = 4,
                          .group_size = 128,
                          .codes = codes.data(),
                          .scales = scales.data()};
  EXPECT_EQ(weight.groups(), 1);
  const float expected[2][4] = {{-4.0f, 3.5f, 0.0f, 0.5f}, {-2.0f, -16.0f, -14.0f, -12.0f}};
  for (int r = 0; r < 2; ++r) {
    for (int c = 0; c < 4; ++c) EXPECT_EQ(weight_value(weight, r, c), expected[r][c]);
  }
}

TEST(HostWeight, a_group_has_its_own_scale_and_zero_and_the_last_may_be_short) {
  const auto codes = bytes_of({0x31, 0x75, 0xb9});
  const std::vector<float> scales = {1.0f, 10.0f};
  const std::vector<uint8_t> zeros = {1, 16};
  const HostWeight weight{.format = WeightFormat::kInt4,
                          .dense = {},
                          .out_features = 1,
                          .in_features = 6,
                          .group_size = 4,
                          .has_zeros = true,
                          .codes = codes.data(),
                          .scales = scales.data(),
                          .zeros = zeros.data()};
  const float expected[] = {0.0f, 2.0f, 4.0f, 6.0f, -70.0f, -50.0f};
  for (int c = 0; c < 6; ++c) EXPECT_EQ(weight_value(weight, 0, c), expected[c]);
}

TEST(HostWeight, a_codebook_is_looked_up_scaled_and_rounded_once) {
  const auto codes = bytes_of({0x2f});
  const std::vector<float> scales = {1.0f / 3};
  HostWeight weight{.format = WeightFormat::kCodebook4,
                    .dense = {},
                    .out_features = 1,
                    .in_features = 2,
                    .group_size = 64,
                    .dtype = DType::kBF16,
                    .codes = codes.data(),
                    .scales = scales.data()};
  weight.codebook[15] = 1.0f;
  weight.codebook[2] = -0.52507305f;
  EXPECT_EQ(weight_value(weight, 0, 0), to_float(to_bfloat16(1.0f / 3)));
  EXPECT_EQ(weight_value(weight, 0, 1), to_float(to_bfloat16(-0.52507305f * (1.0f / 3))));
}

TEST(HostWeight, int8_codes_are_signed) {
  const auto codes = bytes_of({0x81, 0x7f, 0x00});
  const std::vector<float> scales = {0.25f};
  const HostWeight weight{.format = WeightFormat::kInt8,
                          .dense = {},
                          .out_features = 1,
                          .in_features = 3,
                          .group_size = 3,
                          .codes = codes.data(),
                          .scales = scales.data()};
  EXPECT_EQ(weight_value(weight, 0, 0), -31.75f);
  EXPECT_EQ(weight_value(weight, 0, 1), 31.75f);
  EXPECT_EQ(weight_value(weight, 0, 2), 0.0f);
}

TEST(HostWeight, dense_matrices_are_flattened_behind_their_first_dimension) {
  const std::vector<float> values = {1, 2, 3, 4, 5, 6, 7, 8};
  const HostWeight weight =
      dense_weight({reinterpret_cast<const std::byte*>(values.data()), DType::kF32, {2, 2, 2}});
  EXPECT_EQ(weight.out_features, 2);
  EXPECT_EQ(weight.in_features, 4);
  EXPECT_EQ(weight_value(weight, 1, 2), 7.0f);
}

}  // namespace
}  // namespace cogserve
