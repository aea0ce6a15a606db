// The whole road from a client's bytes to the vision tower's input. A pure function, safe on any
// thread; it runs on the preprocessing pool, never on an RPC thread.
#pragma once

#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/image/image_limits.hpp"

namespace cogserve::image {

// Decodes `encoded`, resizes it to a square of `image_size` pixels whatever its shape, and
// normalises it: [3, image_size, image_size] floats, equal in every bit to upstream's Pillow and
// torchvision pipeline. Errors are those of decode.
absl::StatusOr<std::vector<float>> read_image(std::string_view encoded, int image_size,
                                              const ImageLimits& limits);

}  // namespace cogserve::image
