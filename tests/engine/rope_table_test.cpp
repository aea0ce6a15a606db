#include "engine/model/rope_table.hpp"

#include <gtest/gtest.h>

#include <cmath>

namespace cogserve {
namespace {

class RopeTableTest : public testing::Test {
 protected:
  RopeTableTest() {
    config_.hidden = 32;
    config_.heads = 2;
    config_.kv_heads = 1;
    config_.max_positions = 1000;
    backend_ = make_backend("cpu", 1).value();
  }

  // cos then sin, [positions, 8] each.
  std::pair<std::vector<float>, std::vector<float>> make(RopeDtype dtype) {
    const RopeStorage rope = make_rope_table(backend_.get(), config_, dtype).value();
    std::vector<float> cos(1000 * kPairs), sin(1000 * kPairs);
    backend_->download(rope.table.cos, cos.data());
    backend_->download(rope.table.sin, sin.data());
    return {cos, sin};
  }

  static constexpr int kPairs = 8;
  ModelConfig config_;
  std::unique_ptr<Backend> backend_;
};

TEST_F(RopeTableTest, f32_is_the_formula) {
  const auto [cos, sin] = make(RopeDtype::kF32);
  for (int position = 0; position < 1000; ++position) {
    for (int i = 0; i < kPairs; ++i) {
      const double angle = position / std::pow(500000.0, 2.0 * i / 16.0);
      EXPECT_NEAR(cos[position * kPairs + i], std::cos(angle), 2e-4) << position << " " << i;
      EXPECT_NEAR(sin[position * kPairs + i], std::sin(angle), 2e-4) << position << " " << i;
    }
  }
}

TEST_F(RopeTableTest, bf16_rounds_each_step) {
  const auto [cos, sin] = make(RopeDtype::kBF16);
  const auto round = [](double value) {
    return static_cast<double>(to_float(to_bfloat16(static_cast<float>(value))));
  };
  for (const int position : {0, 1, 2, 100, 255, 256, 258, 777}) {
    for (int i = 0; i < kPairs; ++i) {
      const double angle = round(round(position) * round(std::pow(500000.0, -2.0 * i / 16.0)));
      EXPECT_EQ(cos[position * kPairs + i], round(std::cos(angle))) << position << " " << i;
      EXPECT_EQ(sin[position * kPairs + i], round(std::sin(angle))) << position << " " << i;
    }
  }
}

TEST_F(RopeTableTest, bf16_positions_beyond_256_coincide) {
  const auto [cos, sin] = make(RopeDtype::kBF16);
  const auto row = [](const std::vector<float>& table, int position) {
    return std::vector<float>(table.begin() + position * kPairs,
                              table.begin() + (position + 1) * kPairs);
  };
  EXPECT_EQ(row(sin, 257), row(sin, 256));  // a tie goes to the even neighbour
  EXPECT_EQ(row(sin, 259), row(sin, 260));
  EXPECT_NE(row(sin, 255), row(sin, 256));
}

TEST(RopeDtypeTest, auto_goes_by_the_weights) {
  EXPECT_EQ(resolve_rope_dtype(RopeDtype::kAuto, DType::kBF16), RopeDtype::kBF16);
  EXPECT_EQ(resolve_rope_dtype(RopeDtype::kAuto, DType::kF16), RopeDtype::kF32);
  EXPECT_EQ(resolve_rope_dtype(RopeDtype::kAuto, DType::kF32), RopeDtype::kF32);
  EXPECT_EQ(resolve_rope_dtype(RopeDtype::kF32, DType::kBF16), RopeDtype::kF32);
  EXPECT_EQ(resolve_rope_dtype(RopeDtype::kBF16, DType::kF32), RopeDtype::kBF16);
}

}  // namespace
}  // namespace cogserve
