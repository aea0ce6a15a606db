#include "server/image/decoder.hpp"

#include "server/image/codecs.hpp"
#include "server/image/image_error.hpp"
#include "server/image/preflight.hpp"

namespace cogserve::image {
namespace {

bool decode_as(ImageFormat format, Bytes bytes, cv::Mat& rgb) {
  switch (format) {
    case ImageFormat::kJpeg:
      return decode_jpeg(bytes, rgb);
    case ImageFormat::kPng:
      return decode_png(bytes, rgb);
    case ImageFormat::kWebp:
      return decode_webp(bytes, rgb);
  }
  return false;
}

}  // namespace

absl::StatusOr<cv::Mat> decode(std::string_view encoded, const ImageLimits& limits) {
  const absl::StatusOr<ImageHeader> header = preflight(encoded, limits);
  if (!header.ok()) return header.status();
  cv::Mat rgb = cv::Mat::zeros(header->height, header->width, CV_8UC3);
  if (!decode_as(header->format, as_bytes(encoded), rgb)) {
    return refuse(kDecode, "the image data are corrupt or incomplete");
  }
  return rgb;
}

}  // namespace cogserve::image
