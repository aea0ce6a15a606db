#include "server/image/preflight.hpp"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/base/error.hpp"
#include "server/image/header_parsers.hpp"
#include "server/image/image_error.hpp"

namespace cogserve::image {
namespace {

using std::string_view_literals::operator""sv;

constexpr std::string_view kJpegMagic = "\xFF\xD8\xFF"sv;
constexpr std::string_view kPngMagic = "\x89PNG\r\n\x1A\n"sv;

bool is_webp(std::string_view encoded) {
  return encoded.starts_with("RIFF") && encoded.size() >= 12 && encoded.substr(8, 4) == "WEBP";
}

absl::Status over_limit(std::string_view reason, const std::string& message,
                        const std::string& limit, const std::string& got) {
  return with_limit(refuse(reason, message), limit, got);
}

absl::Status check_size(const ImageHeader& header, std::size_t encoded_bytes,
                        const ImageLimits& limits) {
  const auto [shorter, longer] = std::minmax(header.width, header.height);
  if (shorter < limits.min_edge || longer > limits.max_edge) {
    const std::string got = absl::StrCat(header.width, "x", header.height);
    return over_limit(kEdge,
                      absl::StrCat("the image is ", got, "; each edge must have ", limits.min_edge,
                                   " to ", limits.max_edge, " pixels"),
                      absl::StrCat(limits.min_edge, "..", limits.max_edge), got);
  }
  const int64_t pixels = int64_t{header.width} * header.height;
  if (pixels > limits.max_pixels) {
    return over_limit(
        kPixels,
        absl::StrCat("the image has ", pixels, " pixels; the limit is ", limits.max_pixels),
        absl::StrCat(limits.max_pixels), absl::StrCat(pixels));
  }
  const int64_t allowed =
      limits.free_pixels + limits.max_pixels_per_byte * static_cast<int64_t>(encoded_bytes);
  if (pixels > allowed) {
    return over_limit(kRatio,
                      absl::StrCat("the image declares ", pixels, " pixels in ", encoded_bytes,
                                   " bytes; the limit for so few bytes is ", allowed),
                      absl::StrCat(allowed), absl::StrCat(pixels));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ImageHeader> preflight(std::string_view encoded, const ImageLimits& limits) {
  if (encoded.size() > limits.max_encoded_bytes) {
    return over_limit(kTooLarge,
                      absl::StrCat("the image has ", encoded.size(), " bytes; the limit is ",
                                   limits.max_encoded_bytes),
                      absl::StrCat(limits.max_encoded_bytes), absl::StrCat(encoded.size()));
  }
  const auto check = [&](const ImageHeader& header) {
    return check_size(header, encoded.size(), limits);
  };
  if (encoded.starts_with(kJpegMagic)) return parse_jpeg(as_bytes(encoded), check);
  if (encoded.starts_with(kPngMagic)) return parse_png(as_bytes(encoded), check);
  if (is_webp(encoded)) return parse_webp(as_bytes(encoded), check);
  return refuse(kFormat, "the image is not a JPEG, PNG or WebP file");
}

}  // namespace cogserve::image
