#include <webp/decode.h>

#include <cstddef>

#include "opencv2/core.hpp"
#include "server/image/codecs.hpp"

namespace cogserve::image {
namespace {

std::size_t byte_count(const cv::Mat& mat) { return mat.total() * mat.elemSize(); }

}  // namespace

bool decode_webp(Bytes bytes, cv::Mat& rgb) {
  WebPBitstreamFeatures features;
  if (WebPGetFeatures(bytes.data(), bytes.size(), &features) != VP8_STATUS_OK) return false;
  if (features.width != rgb.cols || features.height != rgb.rows) return false;
  if (features.has_animation != 0) return false;
  if (features.has_alpha == 0) {
    return WebPDecodeRGBInto(bytes.data(), bytes.size(), rgb.data, byte_count(rgb),
                             static_cast<int>(rgb.step)) != nullptr;
  }
  // Alpha is decoded, so that corrupt alpha is noticed, and dropped.
  cv::Mat rgba = cv::Mat::zeros(rgb.rows, rgb.cols, CV_8UC4);
  if (WebPDecodeRGBAInto(bytes.data(), bytes.size(), rgba.data, byte_count(rgba),
                         static_cast<int>(rgba.step)) == nullptr) {
    return false;
  }
  const int from_to[] = {0, 0, 1, 1, 2, 2};
  cv::mixChannels(&rgba, 1, &rgb, 1, from_to, 3);
  return true;
}

}  // namespace cogserve::image
