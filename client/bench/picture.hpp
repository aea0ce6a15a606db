// Pictures made on the spot for load tests: a colour gradient under coarse noise, so that they
// compress about as well as photographs, or plain noise, the worst case.
#pragma once

#include <cstdint>
#include <string>

namespace cogserve::client {

struct PictureSpec {
  // 1 to 16384 pixels.
  int width = 1344;
  int height = 1344;
  bool png = false;  // else JPEG
  bool noise = false;
};

// The encoded file. The same seed gives the same picture, another seed another one.
std::string make_picture(const PictureSpec& spec, uint64_t seed);

}  // namespace cogserve::client
