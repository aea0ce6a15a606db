#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "engine/base/error.hpp"
#include "opencv2/core.hpp"
#include "server/image/decoder.hpp"
#include "server/image/image_reader.hpp"
#include "server/image/normalize.hpp"
#include "server/image/resample.hpp"
#include "tests/server/image_files.hpp"

namespace cogserve::image {
namespace {

using namespace cogserve::image::testing;

cv::Mat random_picture(int width, int height, unsigned seed) {
  std::mt19937 random(seed);
  cv::Mat rgb(height, width, CV_8UC3);
  // Extremes often, so that sums overshoot and are clipped.
  for (auto it = rgb.begin<cv::Vec3b>(); it != rgb.end<cv::Vec3b>(); ++it) {
    for (int c = 0; c < 3; ++c) {
      const unsigned value = random();
      (*it)[c] = value % 3 == 0 ? 0 : value % 3 == 1 ? 255 : static_cast<uchar>(value >> 8);
    }
  }
  return rgb;
}

bool are_equal(const cv::Mat& a, const cv::Mat& b) {
  return a.size() == b.size() && a.type() == b.type() && cv::norm(a, b, cv::NORM_INF) == 0;
}

// The definition, written plainly: one axis, one sample at a time, in 64 bits.
cv::Mat plain_rows(const cv::Mat& rgb, int width) {
  const double scale = static_cast<double>(rgb.cols) / width, wide = std::max(scale, 1.0);
  const auto cubic = [](double x) {
    x = std::fabs(x);
    if (x < 1) return ((-0.5 + 2) * x - (-0.5 + 3)) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0.0;
  };
  cv::Mat result(rgb.rows, width, CV_8UC3);
  for (int x = 0; x < width; ++x) {
    const double center = (x + 0.5) * scale;
    const int begin = std::max(0, static_cast<int>(center - 2 * wide + 0.5));
    const int end = std::min(rgb.cols, static_cast<int>(center + 2 * wide + 0.5));
    std::vector<double> weights;
    double total = 0;
    for (int i = begin; i < end; ++i) {
      weights.push_back(cubic((i - center + 0.5) * (1 / wide)));
      total += weights.back();
    }
    for (int y = 0; y < rgb.rows; ++y) {
      for (int c = 0; c < 3; ++c) {
        int64_t sum = 1 << 21;
        for (int i = begin; i < end; ++i) {
          const double scaled = weights[i - begin] / total * (1 << 22);
          sum +=
              rgb.at<cv::Vec3b>(y, i)[c] * static_cast<int64_t>(scaled + (scaled < 0 ? -0.5 : 0.5));
        }
        result.at<cv::Vec3b>(y, x)[c] = static_cast<uchar>(std::clamp<int64_t>(sum >> 22, 0, 255));
      }
    }
  }
  return result;
}

cv::Mat plain_resize(const cv::Mat& rgb, int width, int height) {
  const cv::Mat wide = width == rgb.cols ? rgb : plain_rows(rgb, width);
  return height == rgb.rows ? wide : cv::Mat(plain_rows(cv::Mat(wide.t()), height).t());
}

TEST(Resample, every_fixture_resized_equals_pillow) {
  for (const Fixture& fixture : load_fixtures()) {
    const absl::StatusOr<cv::Mat> rgb = decode(fixture.encoded, ImageLimits{});
    ASSERT_TRUE(rgb.ok()) << fixture.name;
    const cv::Mat resized = resize_bicubic(*rgb, fixture.resized_width, fixture.resized_height);
    const cv::Mat expected(fixture.resized_height, fixture.resized_width, CV_8UC3,
                           const_cast<char*>(fixture.resized.data()));
    EXPECT_TRUE(are_equal(resized, expected)) << fixture.name;
  }
}

TEST(Resample, equals_the_plain_definition_at_any_size) {
  std::mt19937 random(7);
  for (unsigned trial = 0; trial < 150; ++trial) {
    const auto edge = [&] { return 1 + static_cast<int>(random() % (trial % 2 == 0 ? 20 : 150)); };
    const int width = edge(), height = edge(), new_width = edge(), new_height = edge();
    const cv::Mat rgb = random_picture(width, height, trial);
    EXPECT_TRUE(are_equal(resize_bicubic(rgb, new_width, new_height),
                          plain_resize(rgb, new_width, new_height)))
        << width << "x" << height << " to " << new_width << "x" << new_height;
  }
}

TEST(Resample, equals_the_plain_definition_for_very_long_kernels) {
  const cv::Mat wide = random_picture(16384, 4, 1), tall = random_picture(4, 16384, 2);
  EXPECT_TRUE(are_equal(resize_bicubic(wide, 7, 7), plain_resize(wide, 7, 7)));
  EXPECT_TRUE(are_equal(resize_bicubic(tall, 7, 7), plain_resize(tall, 7, 7)));
}

TEST(Resample, a_picture_of_the_right_size_is_left_alone) {
  const cv::Mat rgb = random_picture(33, 21, 3);
  EXPECT_TRUE(are_equal(resize_bicubic(rgb, 33, 21), rgb));
}

TEST(Resample, a_flat_picture_stays_flat) {
  for (const int value : {0, 1, 127, 254, 255}) {
    const cv::Mat rgb(37, 91, CV_8UC3, cv::Scalar::all(value));
    EXPECT_TRUE(
        are_equal(resize_bicubic(rgb, 112, 20), cv::Mat(20, 112, CV_8UC3, cv::Scalar::all(value))));
  }
}

TEST(Resample, reads_only_its_own_part_of_a_larger_picture) {
  const cv::Mat large = random_picture(64, 64, 4);
  const cv::Mat part = large(cv::Rect(5, 6, 30, 40));
  EXPECT_TRUE(are_equal(resize_bicubic(part, 17, 50), resize_bicubic(part.clone(), 17, 50)));
}

// The bits were computed with numpy: (float32(v) / 255 - mean) / std.
TEST(Normalize, equals_numpy_in_every_bit) {
  struct Row {
    int value;
    std::uint32_t bits[3];
  };
  const Row rows[] = {
      {0, {0xBFE568DC, 0xBFE044B8, 0xBFBD77D8}},   {1, {0xBFE38A7F, 0xBFDE58F1, 0xBFBBA5E1}},
      {77, {0xBF2B0E15, 0xBF18B427, 0xBEC542B8}},  {128, {0x3D9C5620, 0x3E2CF36B, 0x3EAE0DC4}},
      {254, {0x3FF536E5, 0x4003D502, 0x40086D66}}, {255, {0x3FF71541, 0x4004CAE5, 0x40095660}},
  };
  for (const Row& row : rows) {
    const cv::Mat rgb(1, 1, CV_8UC3, cv::Scalar::all(row.value));
    std::vector<float> chw(3);
    to_pixels(rgb, chw);
    for (int c = 0; c < 3; ++c) {
      EXPECT_EQ(std::bit_cast<std::uint32_t>(chw[c]), row.bits[c])
          << row.value << ", channel " << c;
    }
  }
}

TEST(Normalize, writes_three_planes_red_first) {
  cv::Mat rgb = cv::Mat::zeros(2, 3, CV_8UC3);
  rgb.at<cv::Vec3b>(1, 2) = {255, 0, 0};
  rgb.at<cv::Vec3b>(0, 1) = {0, 255, 0};
  rgb.at<cv::Vec3b>(1, 0) = {0, 0, 255};
  std::vector<float> chw(18);
  to_pixels(rgb, chw);
  for (int i = 0; i < 18; ++i) {
    EXPECT_EQ(chw[i] > 0, i == 5 || i == 6 + 1 || i == 12 + 3) << i;
  }
}

TEST(ImageReader, is_decoding_resizing_and_normalising) {
  for (const Fixture& fixture : load_fixtures()) {
    const absl::StatusOr<std::vector<float>> pixels =
        read_image(fixture.encoded, 28, ImageLimits{});
    ASSERT_TRUE(pixels.ok()) << fixture.name;
    const cv::Mat square = resize_bicubic(*decode(fixture.encoded, ImageLimits{}), 28, 28);
    std::vector<float> expected(3 * 28 * 28);
    to_pixels(square, expected);
    EXPECT_EQ(*pixels, expected) << fixture.name;
  }
}

TEST(ImageReader, passes_refusals_on) {
  const absl::Status status = read_image("BM", 28, ImageLimits{}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(error_reason(status), "IMAGE_FORMAT");
}

}  // namespace
}  // namespace cogserve::image
