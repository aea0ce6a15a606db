#include "server/image/image_reader.hpp"

#include "server/image/decoder.hpp"
#include "server/image/normalize.hpp"
#include "server/image/resample.hpp"

namespace cogserve::image {

absl::StatusOr<std::vector<float>> read_image(std::string_view encoded, int image_size,
                                              const ImageLimits& limits) {
  const absl::StatusOr<cv::Mat> rgb = decode(encoded, limits);
  if (!rgb.ok()) return rgb.status();
  const cv::Mat square = resize_bicubic(*rgb, image_size, image_size);
  std::vector<float> pixels(3 * square.total());
  to_pixels(square, pixels);
  return pixels;
}

}  // namespace cogserve::image
