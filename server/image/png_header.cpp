#include <limits>

#include "server/image/header_parsers.hpp"
#include "server/image/image_error.hpp"

namespace cogserve::image {
namespace {

constexpr std::size_t kMagicBytes = 8;
constexpr std::size_t kChunkOverhead = 12;  // length, type and checksum
constexpr std::size_t kHeaderBytes = 13;

absl::Status truncated() { return refuse(kTruncated, "the PNG file ends before its image does"); }
absl::Status corrupt() { return refuse(kDecode, "the PNG file's structure is corrupt"); }

struct Chunk {
  std::string_view type;
  Bytes body;
};

bool is_letter(char c) { return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'); }

// The chunk at `at`, which moves behind it.
absl::StatusOr<Chunk> next_chunk(Bytes bytes, std::size_t& at) {
  if (bytes.size() - at < kChunkOverhead) return truncated();
  const std::size_t length = big_endian_32(bytes, at);
  const std::string_view type = as_text(bytes.subspan(at + 4, 4));
  for (const char c : type) {
    if (!is_letter(c)) return corrupt();
  }
  if (length > bytes.size() - at - kChunkOverhead) return truncated();
  const Bytes body = bytes.subspan(at + 8, length);
  at += kChunkOverhead + length;
  return Chunk{type, body};
}

bool is_bit_depth_of(int bit_depth, int color_type) {
  switch (color_type) {
    case 0:
      return bit_depth == 1 || bit_depth == 2 || bit_depth == 4 || bit_depth == 8 ||
             bit_depth == 16;
    case 3:
      return bit_depth == 1 || bit_depth == 2 || bit_depth == 4 || bit_depth == 8;
    case 2:
    case 4:
    case 6:
      return bit_depth == 8 || bit_depth == 16;
    default:
      return false;
  }
}

absl::StatusOr<ImageHeader> read_header(const Chunk& chunk) {
  if (chunk.type != "IHDR" || chunk.body.size() != kHeaderBytes) return corrupt();
  const std::uint32_t width = big_endian_32(chunk.body, 0), height = big_endian_32(chunk.body, 4);
  constexpr std::uint32_t kMax = std::numeric_limits<std::int32_t>::max();
  if (width > kMax || height > kMax) return corrupt();
  const bool known_coding = chunk.body[10] == 0 && chunk.body[11] == 0 && chunk.body[12] <= 1;
  if (!is_bit_depth_of(chunk.body[8], chunk.body[9]) || !known_coding) return corrupt();
  return ImageHeader{ImageFormat::kPng, static_cast<int>(width), static_cast<int>(height)};
}

}  // namespace

absl::StatusOr<ImageHeader> parse_png(Bytes bytes, SizeCheck check) {
  std::size_t at = kMagicBytes;
  absl::StatusOr<Chunk> chunk = next_chunk(bytes, at);
  if (!chunk.ok()) return chunk.status();
  absl::StatusOr<ImageHeader> header = read_header(*chunk);
  if (!header.ok()) return header;
  if (absl::Status status = check(*header); !status.ok()) return status;

  bool has_data = false, in_data = false;
  while (true) {
    chunk = next_chunk(bytes, at);
    if (!chunk.ok()) return chunk.status();
    if (chunk->type == "IHDR") return corrupt();
    if (chunk->type == "acTL") return refuse(kFormat, "animated PNG files are not read");
    if (chunk->type == "IEND") {
      if (!has_data) return corrupt();
      return header;
    }
    const bool is_data = chunk->type == "IDAT";
    if (is_data && has_data && !in_data) return corrupt();  // the data must be in one run
    in_data = is_data;
    has_data = has_data || is_data;
  }
}

}  // namespace cogserve::image
