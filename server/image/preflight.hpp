// The header check: decides from the encoded bytes alone whether a picture may be decoded. It
// allocates nothing, reads each byte at most once and is safe on any input. A pure function.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "server/image/image_limits.hpp"

namespace cogserve::image {

enum class ImageFormat { kJpeg, kPng, kWebp };

struct ImageHeader {
  ImageFormat format;
  int width;   // pixels
  int height;  // pixels
};

// Accepts a whole, still JPEG, PNG or WebP within `limits`. The structure is walked from the first
// marker or chunk to the last, so a file cut anywhere is refused; bytes after the picture's end are
// ignored, as upstream ignores them. Errors are INVALID_ARGUMENT with a reason of image_error.hpp,
// in this order: size in bytes, format, then edges, pixels and ratio as soon as the header has told
// them, then whatever is wrong behind the header.
absl::StatusOr<ImageHeader> preflight(std::string_view encoded, const ImageLimits& limits);

}  // namespace cogserve::image
