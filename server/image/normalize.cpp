#include "server/image/normalize.hpp"

#include <array>
#include <cstddef>

#include "opencv2/core.hpp"

namespace cogserve::image {
namespace {

constexpr std::array<float, 3> kMean = {0.48145466f, 0.4578275f, 0.40821073f};
constexpr std::array<float, 3> kStd = {0.26862954f, 0.26130258f, 0.27577711f};

// A pixel has 256 values: the division and the roundings are done once for each.
using ValueTable = std::array<std::array<float, 256>, 3>;

ValueTable make_table() {
  ValueTable table;
  for (std::size_t channel = 0; channel < 3; ++channel) {
    for (int value = 0; value < 256; ++value) {
      const float unit = static_cast<float>(value) / 255.0f;
      const float centered = unit - kMean[channel];
      table[channel][value] = centered / kStd[channel];
    }
  }
  return table;
}

}  // namespace

void to_pixels(const cv::Mat& rgb, std::span<float> chw) {
  static const ValueTable table = make_table();
  const std::size_t plane = rgb.total();
  CV_Assert(rgb.type() == CV_8UC3 && chw.size() == 3 * plane);
  const std::size_t width = static_cast<std::size_t>(rgb.cols);
  for (int y = 0; y < rgb.rows; ++y) {
    const unsigned char* row = rgb.ptr(y);
    float* target = chw.data() + static_cast<std::size_t>(y) * width;
    for (std::size_t x = 0; x < width; ++x) {
      target[x] = table[0][row[3 * x]];
      target[plane + x] = table[1][row[3 * x + 1]];
      target[2 * plane + x] = table[2][row[3 * x + 2]];
    }
  }
}

}  // namespace cogserve::image
