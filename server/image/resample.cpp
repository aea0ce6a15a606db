#include "server/image/resample.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "opencv2/core.hpp"
#include "server/image/resample_kernels.hpp"

namespace cogserve::image {
namespace {

constexpr double kSupport = 2.0;  // half the kernel's width, in samples

// Keys' cubic convolution with a = -0.5. Here and in make_axis the order of the operations is part
// of the contract: another order rounds another way.
double bicubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
  if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * a;
  return 0.0;
}

std::int32_t to_fixed_point(double weight) {
  const double scaled = weight * (1 << kWeightBits);
  return static_cast<std::int32_t>(weight < 0 ? scaled - 0.5 : scaled + 0.5);
}

ResampleAxis make_axis(int inputs, int outputs) {
  const double scale = static_cast<double>(inputs) / outputs;
  const double widening = std::max(scale, 1.0);
  const double support = kSupport * widening;
  const double per_sample = 1.0 / widening;

  ResampleAxis axis;
  axis.stride = static_cast<std::size_t>(std::ceil(support)) * 2 + 1;
  axis.weights.resize(static_cast<std::size_t>(outputs) * axis.stride);
  std::vector<double> exact(axis.stride);
  for (int output = 0; output < outputs; ++output) {
    const double center = (output + 0.5) * scale;
    const int first = std::max(static_cast<int>(center - support + 0.5), 0);
    const int end = std::min(static_cast<int>(center + support + 0.5), inputs);
    const int count = end - first;
    double total = 0.0;
    for (int i = 0; i < count; ++i) {
      exact[i] = bicubic((i + first - center + 0.5) * per_sample);
      total += exact[i];
    }
    std::int32_t* weights = axis.weights.data() + static_cast<std::size_t>(output) * axis.stride;
    for (int i = 0; i < count; ++i) {
      weights[i] = to_fixed_point(total != 0.0 ? exact[i] / total : exact[i]);
    }
    axis.first.push_back(first);
    axis.count.push_back(count);
  }
  return axis;
}

// Along the width. Each row goes through a copy with room behind it, so that the kernel may load
// the last pixel as four bytes.
cv::Mat resample_width(const cv::Mat& rgb, int width) {
  const ResampleAxis axis = make_axis(rgb.cols, width);
  const std::size_t row_bytes = static_cast<std::size_t>(rgb.cols) * 3;
  std::vector<std::uint8_t> row(row_bytes + 1);
  cv::Mat result(rgb.rows, width, CV_8UC3);
  for (int y = 0; y < rgb.rows; ++y) {
    std::memcpy(row.data(), rgb.ptr(y), row_bytes);
    resample_row(row.data(), axis, result.ptr(y));
  }
  return result;
}

// Down the height.
cv::Mat resample_height(const cv::Mat& rgb, int height) {
  const ResampleAxis axis = make_axis(rgb.rows, height);
  cv::Mat result(height, rgb.cols, CV_8UC3);
  for (int y = 0; y < height; ++y) {
    resample_column(rgb.ptr(axis.first[y]), rgb.step, axis.weights_of(y), axis.count[y],
                    static_cast<std::size_t>(rgb.cols) * 3, result.ptr(y));
  }
  return result;
}

}  // namespace

cv::Mat resize_bicubic(const cv::Mat& rgb, int width, int height) {
  CV_Assert(rgb.type() == CV_8UC3 && !rgb.empty() && width > 0 && height > 0);
  const cv::Mat wide = width == rgb.cols ? rgb : resample_width(rgb, width);
  return height == rgb.rows ? wide : resample_height(wide, height);
}

}  // namespace cogserve::image
