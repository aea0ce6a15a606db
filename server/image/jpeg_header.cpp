#include <cstring>
#include <optional>

#include "server/image/header_parsers.hpp"
#include "server/image/image_error.hpp"

namespace cogserve::image {
namespace {

constexpr std::uint8_t kRestart0 = 0xD0, kRestart7 = 0xD7, kStartOfImage = 0xD8, kEndOfImage = 0xD9;
constexpr std::uint8_t kStartOfScan = 0xDA, kTemporary = 0x01;

// A progressive picture needs about ten scans; each costs a walk over all its blocks.
constexpr int kMaxProgressiveScans = 100;

// Start of frame: C0 to CF but for the Huffman tables, the extension and the arithmetic tables.
bool is_frame(std::uint8_t marker) {
  return marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC;
}

bool is_progressive(std::uint8_t marker) { return marker == 0xC2 || marker == 0xCA; }

// Baseline, extended and progressive, with Huffman or arithmetic coding. The rest is lossless or
// hierarchical.
bool is_supported_frame(std::uint8_t marker) {
  return marker == 0xC0 || marker == 0xC1 || marker == 0xC9 || is_progressive(marker);
}

absl::Status truncated() { return refuse(kTruncated, "the JPEG file ends before its image does"); }
absl::Status corrupt() { return refuse(kDecode, "the JPEG file's structure is corrupt"); }

bool has_no_segment(std::uint8_t marker) {
  return marker == 0x00 || marker == kTemporary || (marker >= kRestart0 && marker <= kStartOfImage);
}

// Walks the markers of one JPEG file.
class JpegWalker {
 public:
  JpegWalker(Bytes bytes, SizeCheck check) : bytes_(bytes), check_(check) {}

  absl::StatusOr<ImageHeader> walk() {
    at_ = 2;  // behind the start of image
    while (true) {
      if (absl::Status status = next_marker(); !status.ok()) return status;
      if (marker_ == kEndOfImage) {
        if (!has_all_scans()) return corrupt();
        return *header_;
      }
      if (absl::Status status = read_segment(); !status.ok()) return status;
    }
  }

 private:
  // Leaves `marker_` set and `at_` behind it. Any number of fill bytes may come before a marker.
  absl::Status next_marker() {
    if (at_ >= bytes_.size()) return truncated();
    if (bytes_[at_] != 0xFF) return corrupt();
    while (at_ < bytes_.size() && bytes_[at_] == 0xFF) ++at_;
    if (at_ >= bytes_.size()) return truncated();
    marker_ = bytes_[at_++];
    return absl::OkStatus();
  }

  absl::Status read_segment() {
    if (has_no_segment(marker_)) return corrupt();
    if (bytes_.size() - at_ < 2) return truncated();
    const std::size_t length = big_endian_16(bytes_, at_);
    if (length < 2) return corrupt();
    if (bytes_.size() - at_ < length) return truncated();
    const Bytes body = bytes_.subspan(at_ + 2, length - 2);
    at_ += length;
    if (is_frame(marker_)) return read_frame(body);
    if (marker_ == kStartOfScan) return read_scan(body);
    return absl::OkStatus();
  }

  absl::Status read_frame(Bytes body) {
    if (header_.has_value()) return corrupt();
    if (!is_supported_frame(marker_)) {
      return refuse(kFormat, "lossless and hierarchical JPEG files are not read");
    }
    if (body.size() < 6) return corrupt();
    components_ = body[5];
    if (body.size() != 6 + 3 * static_cast<std::size_t>(components_)) return corrupt();
    if (body[0] != 8 || (components_ != 1 && components_ != 3 && components_ != 4)) {
      return refuse(kFormat, "a JPEG file must have 8 bits and 1, 3 or 4 components a pixel");
    }
    progressive_ = is_progressive(marker_);
    header_ = ImageHeader{ImageFormat::kJpeg, static_cast<int>(big_endian_16(body, 3)),
                          static_cast<int>(big_endian_16(body, 1))};
    return check_(*header_);
  }

  absl::Status read_scan(Bytes body) {
    if (!header_.has_value() || body.empty()) return corrupt();
    const int scanned = body[0];
    if (scanned < 1 || body.size() != 4 + 2 * static_cast<std::size_t>(scanned)) return corrupt();
    ++scans_;
    scanned_components_ += scanned;
    const bool too_many =
        progressive_ ? scans_ > kMaxProgressiveScans : scanned_components_ > components_;
    if (too_many) return refuse(kDecode, "the JPEG file has too many scans");
    return skip_data();
  }

  // Each component comes once. What a progressive picture's scans refine, its decoder must tell.
  bool has_all_scans() const {
    return progressive_ ? scans_ > 0 : scans_ > 0 && scanned_components_ == components_;
  }

  // Skips the entropy-coded data: there FF is followed by 00 or a restart marker.
  absl::Status skip_data() {
    while (true) {
      const void* found = std::memchr(bytes_.data() + at_, 0xFF, bytes_.size() - at_);
      if (found == nullptr) return truncated();
      at_ = static_cast<std::size_t>(static_cast<const std::uint8_t*>(found) - bytes_.data());
      if (at_ + 1 >= bytes_.size()) return truncated();
      const std::uint8_t next = bytes_[at_ + 1];
      const bool is_data = next == 0x00 || (next >= kRestart0 && next <= kRestart7);
      if (!is_data && next != 0xFF) return absl::OkStatus();
      at_ += is_data ? 2 : 1;
    }
  }

  Bytes bytes_;
  SizeCheck check_;
  std::size_t at_ = 0;
  std::uint8_t marker_ = 0;
  std::optional<ImageHeader> header_;
  int components_ = 0;
  bool progressive_ = false;
  int scans_ = 0;
  int scanned_components_ = 0;  // over all scans
};

}  // namespace

absl::StatusOr<ImageHeader> parse_jpeg(Bytes bytes, SizeCheck check) {
  return JpegWalker(bytes, check).walk();
}

}  // namespace cogserve::image
