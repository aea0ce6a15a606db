// The three structure walkers behind preflight, one file each. `bytes` start with the format's
// magic. Each calls `check` once, as soon as width and height are known, and stops if it refuses.
#pragma once

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/image/bytes.hpp"
#include "server/image/preflight.hpp"

namespace cogserve::image {

using SizeCheck = absl::FunctionRef<absl::Status(const ImageHeader&)>;

absl::StatusOr<ImageHeader> parse_jpeg(Bytes bytes, SizeCheck check);
absl::StatusOr<ImageHeader> parse_png(Bytes bytes, SizeCheck check);
absl::StatusOr<ImageHeader> parse_webp(Bytes bytes, SizeCheck check);

}  // namespace cogserve::image
