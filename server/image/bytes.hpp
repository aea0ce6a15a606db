// Encoded bytes, read without alignment and in either byte order. The caller checks the length.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace cogserve::image {

using Bytes = std::span<const std::uint8_t>;

inline Bytes as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

inline std::string_view as_text(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

inline std::uint32_t big_endian_16(Bytes bytes, std::size_t at) {
  return (std::uint32_t{bytes[at]} << 8) | bytes[at + 1];
}

inline std::uint32_t big_endian_32(Bytes bytes, std::size_t at) {
  return (big_endian_16(bytes, at) << 16) | big_endian_16(bytes, at + 2);
}

inline std::uint32_t little_endian_16(Bytes bytes, std::size_t at) {
  return bytes[at] | (std::uint32_t{bytes[at + 1]} << 8);
}

inline std::uint32_t little_endian_24(Bytes bytes, std::size_t at) {
  return little_endian_16(bytes, at) | (std::uint32_t{bytes[at + 2]} << 16);
}

inline std::uint32_t little_endian_32(Bytes bytes, std::size_t at) {
  return little_endian_24(bytes, at) | (std::uint32_t{bytes[at + 3]} << 24);
}

}  // namespace cogserve::image
