// Encoded pictures for the tests: the fixtures made by tests/reference/make_images.py, and files
// built by hand, byte by byte, so that they can be wrong in one place.
#pragma once

#include <zlib.h>

#include <cstdint>
#include <fstream>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace cogserve::image::testing {

struct Fixture {
  std::string name;
  int width, height, resized_width, resized_height;
  std::string encoded;
  std::string decoded;  // RGB rows
  std::string resized;  // RGB rows
};

inline std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline std::vector<Fixture> load_fixtures() {
  const std::string folder = COGSERVE_SOURCE_DIR "/tests/data/images/";
  std::istringstream index(read_file(folder + "index.txt"));
  std::vector<Fixture> fixtures;
  for (std::string line; std::getline(index, line);) {
    if (line.starts_with('#')) continue;
    Fixture fixture;
    std::istringstream(line) >> fixture.name >> fixture.width >> fixture.height >>
        fixture.resized_width >> fixture.resized_height;
    fixture.encoded = read_file(folder + fixture.name);
    const std::string pixels = read_file(folder + fixture.name + ".rgb");
    const std::size_t bytes = std::size_t{3} * fixture.width * fixture.height;
    fixture.decoded = pixels.substr(0, bytes);
    fixture.resized = pixels.substr(bytes);
    fixtures.push_back(fixture);
  }
  return fixtures;
}

inline std::string fixture_bytes(const std::string& name) {
  return read_file(COGSERVE_SOURCE_DIR "/tests/data/images/" + name);
}

// The parts in one piece. (GCC 12 warns, wrongly, of `"literal" + temporary string`.)
template <typename... Parts>
std::string cat(const Parts&... parts) {
  std::string out;
  (out.append(std::string_view(parts)), ...);
  return out;
}

inline std::string big_endian(std::uint32_t value, int bytes) {
  std::string out;
  for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8)
    out += static_cast<char>(value >> shift);
  return out;
}

inline std::string little_endian(std::uint32_t value, int bytes) {
  const std::string big = big_endian(value, bytes);
  return {big.rbegin(), big.rend()};
}

// ---- PNG

inline constexpr std::string_view kPngMagic{"\x89PNG\r\n\x1A\n", 8};

inline std::string png_chunk(const std::string& type, const std::string& body) {
  const std::string checked = type + body;
  const auto crc =
      crc32(0, reinterpret_cast<const Bytef*>(checked.data()), static_cast<uInt>(checked.size()));
  return big_endian(static_cast<std::uint32_t>(body.size()), 4) + checked +
         big_endian(static_cast<std::uint32_t>(crc), 4);
}

inline std::string png_header(std::uint32_t width, std::uint32_t height, int depth = 8,
                              int color_type = 2, int interlace = 0) {
  return png_chunk("IHDR", big_endian(width, 4) + big_endian(height, 4) +
                               std::string{static_cast<char>(depth), static_cast<char>(color_type),
                                           0, 0, static_cast<char>(interlace)});
}

inline std::string deflated(const std::string& raw) {
  std::string out(compressBound(raw.size()), '\0');
  uLongf size = out.size();
  compress2(reinterpret_cast<Bytef*>(out.data()), &size, reinterpret_cast<const Bytef*>(raw.data()),
            raw.size(), 9);
  out.resize(size);
  return out;
}

// `raw` as deflate blocks that end on a byte and refer to nothing before them, without the stream's
// header and checksum: they may be repeated and joined.
inline std::string deflated_block(const std::string& raw) {
  z_stream stream{};
  deflateInit2(&stream, 9, Z_DEFLATED, -15, 9, Z_DEFAULT_STRATEGY);
  std::string out(deflateBound(&stream, raw.size()) + 16, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(raw.data()));
  stream.avail_in = static_cast<uInt>(raw.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FULL_FLUSH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

// Rows of an RGB8 picture, all of one byte, each after filter byte 0; deflated.
inline std::string png_data(int width, int height, char value = 'x') {
  std::string raw;
  for (int y = 0; y < height; ++y) {
    raw += '\0';
    raw.append(3 * static_cast<std::size_t>(width), value);
  }
  return png_chunk("IDAT", deflated(raw));
}

inline std::string png_file(const std::string& chunks) {
  return std::string(kPngMagic) + chunks + png_chunk("IEND", "");
}

inline std::string flat_png(int width, int height, char value = 'x') {
  return png_file(png_header(width, height) + png_data(width, height, value));
}

// ---- JPEG

inline std::string jpeg_segment(int marker, const std::string& body) {
  return cat("\xFF", std::string(1, static_cast<char>(marker)),
             big_endian(static_cast<std::uint32_t>(body.size() + 2), 2), body);
}

inline std::string jpeg_frame(int width, int height, int components = 3, int marker = 0xC0,
                              int bits = 8) {
  std::string body(1, static_cast<char>(bits));
  body += big_endian(height, 2) + big_endian(width, 2) + static_cast<char>(components);
  for (int i = 0; i < components; ++i) body += std::string{static_cast<char>(i + 1), 0x11, 0};
  return jpeg_segment(marker, body);
}

inline std::string jpeg_scan(const std::string& entropy = "data", int components = 3) {
  std::string body(1, static_cast<char>(components));
  for (int i = 0; i < components; ++i) body += std::string{static_cast<char>(i + 1), 0};
  return jpeg_segment(0xDA, body + std::string("\0\x3F\0", 3)) + entropy;
}

inline std::string jpeg_file(const std::string& segments) {
  return "\xFF\xD8" + segments + "\xFF\xD9";
}

// ---- WebP

inline std::string riff_chunk(const std::string& type, const std::string& body) {
  return type + little_endian(static_cast<std::uint32_t>(body.size()), 4) + body +
         (body.size() % 2 == 1 ? std::string(1, '\0') : "");
}

inline std::string webp_file(const std::string& chunks) {
  return cat("RIFF", little_endian(static_cast<std::uint32_t>(chunks.size() + 4), 4), "WEBP",
             chunks);
}

inline std::string vp8_frame(int width, int height) {
  return riff_chunk("VP8 ", std::string("\x10\x00\x00\x9D\x01\x2A", 6) + little_endian(width, 2) +
                                little_endian(height, 2) + std::string(32, '\0'));
}

inline std::string vp8l_frame(int width, int height) {
  return riff_chunk("VP8L", cat("\x2F", little_endian((width - 1) | ((height - 1) << 14), 4),
                                std::string(32, '\0')));
}

inline std::string vp8x_header(int width, int height, int flags = 0) {
  return riff_chunk("VP8X", std::string{static_cast<char>(flags), 0, 0, 0} +
                                little_endian(width - 1, 3) + little_endian(height - 1, 3));
}

}  // namespace cogserve::image::testing
