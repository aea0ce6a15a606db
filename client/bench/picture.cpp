#include "client/bench/picture.hpp"

// jpeglib.h needs FILE.
#include <cstdio>
// clang-format off
#include <jpeglib.h>
// clang-format on
#include <png.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <random>
#include <stdexcept>
#include <vector>

namespace cogserve::client {
namespace {

constexpr int kJpegQuality = 90;
// Edge of a patch of one colour in the coarse noise, and its strength.
constexpr int kPatch = 16;
constexpr int kStrength = 48;

using Pixels = std::vector<uint8_t>;  // [height, width, 3]

Pixels noise_pixels(const PictureSpec& spec, std::mt19937_64* random) {
  Pixels pixels(static_cast<size_t>(spec.width) * static_cast<size_t>(spec.height) * 3);
  for (auto& value : pixels) value = static_cast<uint8_t>((*random)() >> 56);
  return pixels;
}

Pixels gradient_pixels(const PictureSpec& spec, std::mt19937_64* random) {
  std::array<int, 12> corners;  // [corner, channel]: two on top, two below
  for (auto& value : corners) value = static_cast<int>((*random)() % 256);
  const size_t patches_wide = static_cast<size_t>((spec.width + kPatch - 1) / kPatch);
  const size_t patches_high = static_cast<size_t>((spec.height + kPatch - 1) / kPatch);
  std::vector<int> patches(patches_wide * patches_high * 3);
  for (auto& value : patches) value = static_cast<int>((*random)() % (2 * kStrength)) - kStrength;

  Pixels pixels;
  pixels.reserve(static_cast<size_t>(spec.width) * static_cast<size_t>(spec.height) * 3);
  for (int y = 0; y < spec.height; ++y) {
    for (int x = 0; x < spec.width; ++x) {
      const size_t patch =
          static_cast<size_t>(y / kPatch) * patches_wide + static_cast<size_t>(x / kPatch);
      for (size_t c = 0; c < 3; ++c) {
        const int top = corners[c] * (spec.width - x) + corners[3 + c] * x;
        const int bottom = corners[6 + c] * (spec.width - x) + corners[9 + c] * x;
        const int64_t sum = int64_t{top} * (spec.height - y) + int64_t{bottom} * y;
        const auto base = static_cast<int>(sum / (int64_t{spec.width} * spec.height));
        pixels.push_back(static_cast<uint8_t>(std::clamp(base + patches[patch * 3 + c], 0, 255)));
      }
    }
  }
  return pixels;
}

// libjpeg's own handler ends the process.
[[noreturn]] void throw_jpeg_error(j_common_ptr) {
  throw std::runtime_error("libjpeg cannot encode a generated picture");
}

std::string encode_jpeg(const PictureSpec& spec, Pixels pixels) {
  jpeg_compress_struct jpeg{};
  jpeg_error_mgr errors{};
  jpeg.err = jpeg_std_error(&errors);
  errors.error_exit = throw_jpeg_error;
  unsigned char* buffer = nullptr;
  unsigned long size = 0;
  jpeg_create_compress(&jpeg);
  jpeg_mem_dest(&jpeg, &buffer, &size);
  jpeg.image_width = static_cast<JDIMENSION>(spec.width);
  jpeg.image_height = static_cast<JDIMENSION>(spec.height);
  jpeg.input_components = 3;
  jpeg.in_color_space = JCS_RGB;
  jpeg_set_defaults(&jpeg);
  jpeg_set_quality(&jpeg, kJpegQuality, TRUE);
  jpeg_start_compress(&jpeg, TRUE);
  const size_t stride = static_cast<size_t>(spec.width) * 3;
  while (jpeg.next_scanline < jpeg.image_height) {
    JSAMPROW row = pixels.data() + jpeg.next_scanline * stride;
    jpeg_write_scanlines(&jpeg, &row, 1);
  }
  jpeg_finish_compress(&jpeg);
  std::string bytes(reinterpret_cast<const char*>(buffer), size);
  jpeg_destroy_compress(&jpeg);
  std::free(buffer);
  return bytes;
}

std::string encode_png(const PictureSpec& spec, const Pixels& pixels) {
  png_image png{};
  png.version = PNG_IMAGE_VERSION;
  png.width = static_cast<png_uint_32>(spec.width);
  png.height = static_cast<png_uint_32>(spec.height);
  png.format = PNG_FORMAT_RGB;
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(png);
  std::string bytes(size, '\0');
  if (png_image_write_to_memory(&png, bytes.data(), &size, 0, pixels.data(), 0, nullptr) == 0) {
    throw std::runtime_error("libpng cannot encode a generated picture");
  }
  bytes.resize(size);
  return bytes;
}

}  // namespace

std::string make_picture(const PictureSpec& spec, uint64_t seed) {
  std::mt19937_64 random(seed);
  Pixels pixels = spec.noise ? noise_pixels(spec, &random) : gradient_pixels(spec, &random);
  return spec.png ? encode_png(spec, pixels) : encode_jpeg(spec, std::move(pixels));
}

}  // namespace cogserve::client
