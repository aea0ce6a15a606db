// What a picture may cost. All limits are checked on the header, before pixels are allocated.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cogserve::image {

struct ImageLimits {
  std::size_t max_encoded_bytes = std::size_t{10} << 20;
  int64_t max_pixels = int64_t{24} << 20;
  int min_edge = 4;
  int max_edge = 16384;
  // A picture may declare `free_pixels` plus this many pixels for each encoded byte. Flat pictures
  // compress well and stay below it; a decompression bomb does not.
  int64_t max_pixels_per_byte = 3000;
  int64_t free_pixels = int64_t{1} << 20;
};

}  // namespace cogserve::image
