#include <algorithm>

#include "server/image/header_parsers.hpp"
#include "server/image/image_error.hpp"

namespace cogserve::image {
namespace {

constexpr std::size_t kRiffHeaderBytes = 12;  // "RIFF", size, "WEBP"
constexpr std::size_t kChunkHeaderBytes = 8;
constexpr std::uint8_t kAnimationFlag = 0x02;

absl::Status truncated() { return refuse(kTruncated, "the WebP file ends before its image does"); }
absl::Status corrupt() { return refuse(kDecode, "the WebP file's structure is corrupt"); }
absl::Status animated() { return refuse(kFormat, "animated WebP files are not read"); }

struct Chunk {
  std::string_view type;
  Bytes body;
};

// The chunk at `at`, which moves behind it and its padding byte.
absl::StatusOr<Chunk> next_chunk(Bytes bytes, std::size_t& at) {
  if (bytes.size() - at < kChunkHeaderBytes) return truncated();
  const std::string_view type = as_text(bytes.subspan(at, 4));
  const std::size_t length = little_endian_32(bytes, at + 4);
  at += kChunkHeaderBytes;
  if (bytes.size() - at < length) return truncated();
  const Bytes body = bytes.subspan(at, length);
  at = std::min(bytes.size(), at + length + (length & 1));
  return Chunk{type, body};
}

absl::StatusOr<ImageHeader> read_lossy(Bytes body) {
  if (body.size() < 10) return corrupt();
  const bool is_key_frame = (body[0] & 1) == 0;
  const bool has_start_code = body[3] == 0x9D && body[4] == 0x01 && body[5] == 0x2A;
  if (!is_key_frame || !has_start_code) return corrupt();
  // The upper two bits ask the viewer to scale; upstream ignores them.
  return ImageHeader{ImageFormat::kWebp, static_cast<int>(little_endian_16(body, 6) & 0x3FFF),
                     static_cast<int>(little_endian_16(body, 8) & 0x3FFF)};
}

absl::StatusOr<ImageHeader> read_lossless(Bytes body) {
  if (body.size() < 5 || body[0] != 0x2F) return corrupt();
  const std::uint32_t bits = little_endian_32(body, 1);
  if ((bits >> 29) != 0) return corrupt();  // version
  return ImageHeader{ImageFormat::kWebp, static_cast<int>(bits & 0x3FFF) + 1,
                     static_cast<int>((bits >> 14) & 0x3FFF) + 1};
}

bool is_image(const Chunk& chunk) { return chunk.type == "VP8 " || chunk.type == "VP8L"; }

absl::StatusOr<ImageHeader> read_frame(const Chunk& chunk) {
  return chunk.type == "VP8 " ? read_lossy(chunk.body) : read_lossless(chunk.body);
}

absl::StatusOr<ImageHeader> parse_extended(Bytes bytes, std::size_t at, Bytes body,
                                           SizeCheck check) {
  if (body.size() < 10) return corrupt();
  if ((body[0] & kAnimationFlag) != 0) return animated();
  const ImageHeader canvas{ImageFormat::kWebp, static_cast<int>(little_endian_24(body, 4)) + 1,
                           static_cast<int>(little_endian_24(body, 7)) + 1};
  if (absl::Status status = check(canvas); !status.ok()) return status;

  bool has_image = false;
  while (at < bytes.size()) {
    const absl::StatusOr<Chunk> chunk = next_chunk(bytes, at);
    if (!chunk.ok()) return chunk.status();
    if (chunk->type == "ANIM" || chunk->type == "ANMF") return animated();
    if (!is_image(*chunk)) continue;
    const absl::StatusOr<ImageHeader> image = read_frame(*chunk);
    if (!image.ok()) return image;
    const bool fills_canvas = image->width == canvas.width && image->height == canvas.height;
    if (has_image || !fills_canvas) return corrupt();
    has_image = true;
  }
  if (!has_image) return corrupt();
  return canvas;
}

}  // namespace

absl::StatusOr<ImageHeader> parse_webp(Bytes bytes, SizeCheck check) {
  const std::size_t riff_bytes = std::size_t{little_endian_32(bytes, 4)} + kChunkHeaderBytes;
  if (riff_bytes < kRiffHeaderBytes) return corrupt();
  // The first chunk's kind is read before the length is believed: a foreign kind is no WebP.
  if (bytes.size() < kRiffHeaderBytes + 4) return truncated();
  const std::string_view kind = as_text(bytes.subspan(kRiffHeaderBytes, 4));
  if (kind != "VP8 " && kind != "VP8L" && kind != "VP8X") {
    return refuse(kFormat, "the RIFF file does not hold a WebP image");
  }
  if (riff_bytes > bytes.size()) return truncated();

  const Bytes riff = bytes.first(riff_bytes);
  std::size_t at = kRiffHeaderBytes;
  const absl::StatusOr<Chunk> chunk = next_chunk(riff, at);
  if (!chunk.ok()) return chunk.status();
  if (kind == "VP8X") return parse_extended(riff, at, chunk->body, check);
  absl::StatusOr<ImageHeader> header = read_frame(*chunk);
  if (!header.ok()) return header;
  if (absl::Status status = check(*header); !status.ok()) return status;
  return header;
}

}  // namespace cogserve::image
