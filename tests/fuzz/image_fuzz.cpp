// Any bytes through header check, decoding, resizing and normalising. Seeds: tests/data/images.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "server/image/decoder.hpp"
#include "server/image/image_reader.hpp"
#include "server/image/preflight.hpp"

namespace {

using namespace cogserve::image;

// How far the inputs came: a fuzz run that never decodes shows nothing.
struct Tally {
  long inputs = 0, passed_preflight = 0, decoded = 0;
  ~Tally() {
    std::fprintf(stderr, "image_fuzz: %ld inputs, %ld passed preflight, %ld decoded\n", inputs,
                 passed_preflight, decoded);
  }
};

void require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Tally tally;
  ++tally.inputs;
  ImageLimits limits;
  limits.max_pixels = int64_t{1} << 20;
  limits.max_encoded_bytes = std::size_t{1} << 20;
  const std::string_view encoded(reinterpret_cast<const char*>(data), size);

  const absl::StatusOr<ImageHeader> header = preflight(encoded, limits);
  const absl::StatusOr<cv::Mat> rgb = decode(encoded, limits);
  if (!header.ok()) {
    require(!rgb.ok());
    return 0;
  }
  ++tally.passed_preflight;
  require(int64_t{header->width} * header->height <= limits.max_pixels);
  if (!rgb.ok()) return 0;
  ++tally.decoded;
  require(rgb->cols == header->width && rgb->rows == header->height && rgb->type() == CV_8UC3);
  require(read_image(encoded, 28, limits).ok());
  return 0;
}
