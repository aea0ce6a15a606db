// Pixels from encoded bytes, equal to what Pillow (10 to 13) gives for
// `Image.open(...).convert('RGB')`: the EXIF orientation, colour profiles and gamma are ignored,
// alpha is dropped, 16-bit grey is cut at 255, other 16-bit samples lose their low byte, CMYK is
// taken as Adobe's inverted kind. A pure function of the bytes, safe on any thread; it opens no
// file and no socket, and knows no codec but libjpeg-turbo, libpng and libwebp.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "opencv2/core/mat.hpp"
#include "server/image/image_limits.hpp"

namespace cogserve::image {

// CV_8UC3 [height, width], channels in the order red, green, blue. Errors: those of preflight,
// which comes first, and IMAGE_DECODE for corrupt data; half a picture is never returned. Beside
// the result it holds, at its peak, 2 bytes a sample of a progressive JPEG, 4 bytes a pixel of a
// WebP with alpha, or 2 bytes a pixel of a 16-bit grey PNG.
absl::StatusOr<cv::Mat> decode(std::string_view encoded, const ImageLimits& limits);

}  // namespace cogserve::image
