// The refusals of picture reading: one place for the reasons and the request field they name.
// The messages are ours alone: no library's text reaches a caller.
#pragma once

#include <string_view>

#include "absl/status/status.h"

namespace cogserve::image {

// More encoded bytes than the limit.
inline constexpr std::string_view kTooLarge = "IMAGE_TOO_LARGE";
// Not a still JPEG, PNG or WebP of a kind that we read.
inline constexpr std::string_view kFormat = "IMAGE_FORMAT";
// The bytes end before the picture does.
inline constexpr std::string_view kTruncated = "IMAGE_TRUNCATED";
// Width or height outside the limits.
inline constexpr std::string_view kEdge = "IMAGE_EDGE";
// More pixels than the limit.
inline constexpr std::string_view kPixels = "IMAGE_PIXELS";
// More pixels than so few bytes can honestly hold.
inline constexpr std::string_view kRatio = "IMAGE_RATIO";
// The header or the data are corrupt.
inline constexpr std::string_view kDecode = "IMAGE_DECODE";

// INVALID_ARGUMENT with `reason`, on the request's field "image".
absl::Status refuse(std::string_view reason, std::string_view message);

}  // namespace cogserve::image
