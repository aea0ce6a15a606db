#include <csetjmp>
#include <cstddef>
#include <cstdio>  // jpeglib.h needs FILE
#include <vector>

#include <jpeglib.h>
// jerror.h needs jpeglib.h before it
#include <jerror.h>

#include "server/image/codecs.hpp"

namespace cogserve::image {
namespace {

// libjpeg's fixed needs beside the coefficients of a progressive picture.
constexpr long kWorkingMemory = 16L << 20;

// One decompression. libjpeg reports errors by longjmp: `run` owns nothing with a destructor, and
// what must be released belongs to the object.
class JpegDecompressor {
 public:
  explicit JpegDecompressor(cv::Mat& rgb) : rgb_(rgb), cmyk_row_(rgb.cols * std::size_t{4}) {
    state_.err = jpeg_std_error(&errors_.base);
    errors_.base.error_exit = &JpegDecompressor::on_error;
    errors_.base.emit_message = &JpegDecompressor::on_message;
    errors_.base.output_message = [](j_common_ptr) {};
  }
  JpegDecompressor(const JpegDecompressor&) = delete;
  JpegDecompressor& operator=(const JpegDecompressor&) = delete;
  ~JpegDecompressor() { jpeg_destroy_decompress(&state_); }

  bool run(Bytes bytes) {
    if (setjmp(errors_.return_point) != 0) return false;
    jpeg_create_decompress(&state_);
    // Without this, the environment decides. Four components of 16-bit coefficients at the most.
    state_.mem->max_memory_to_use = kWorkingMemory + static_cast<long>(rgb_.total()) * 8;
    jpeg_mem_src(&state_, bytes.data(), bytes.size());
    jpeg_read_header(&state_, TRUE);
    const bool is_cmyk = state_.num_components == 4;
    state_.out_color_space = is_cmyk ? JCS_CMYK : JCS_RGB;
    jpeg_start_decompress(&state_);
    if (state_.output_width != static_cast<JDIMENSION>(rgb_.cols) ||
        state_.output_height != static_cast<JDIMENSION>(rgb_.rows)) {
      return false;
    }
    if (state_.progressive_mode && !has_all_coefficients()) return false;
    while (state_.output_scanline < state_.output_height) {
      unsigned char* target = rgb_.ptr(static_cast<int>(state_.output_scanline));
      unsigned char* row = is_cmyk ? cmyk_row_.data() : target;
      if (jpeg_read_scanlines(&state_, &row, 1) != 1) return false;
      if (is_cmyk) convert_cmyk_row(target);
    }
    return jpeg_finish_decompress(&state_) == TRUE;
  }

 private:
  struct ErrorManager {
    jpeg_error_mgr base;  // first, so that libjpeg's pointer is a pointer to the whole
    std::jmp_buf return_point;
  };

  [[noreturn]] static void on_error(j_common_ptr state) {
    std::longjmp(reinterpret_cast<ErrorManager*>(state->err)->return_point, 1);
  }

  // A negative level is a warning: libjpeg would go on with invented pixels. The one about a JFIF
  // version above 1 speaks of the header alone.
  static void on_message(j_common_ptr state, int level) {
    if (level < 0 && state->err->msg_code != JWRN_JFIF_MAJOR) on_error(state);
  }

  // Whether the scans have refined every coefficient to its last bit. A file that lost its later
  // scans decodes without a warning, to a blurred picture.
  bool has_all_coefficients() const {
    for (int component = 0; component < state_.num_components; ++component) {
      for (const int missing_bits : state_.coef_bits[component]) {
        if (missing_bits != 0) return false;
      }
    }
    return true;
  }

  // The file holds Adobe's inverted inks, so `x` below is 255 - ink and 255 - (255 - x) * white
  // of Pillow's formula with its division by 255 rounded to nearest.
  void convert_cmyk_row(unsigned char* target) const {
    for (int x = 0; x < rgb_.cols; ++x) {
      const unsigned char* inverted = cmyk_row_.data() + 4 * static_cast<std::size_t>(x);
      const int white = inverted[3];
      for (int c = 0; c < 3; ++c) {
        const int product = (255 - inverted[c]) * white + 128;
        target[3 * x + c] = static_cast<unsigned char>(white - ((product + (product >> 8)) >> 8));
      }
    }
  }

  cv::Mat& rgb_;
  std::vector<unsigned char> cmyk_row_;
  ErrorManager errors_{};
  jpeg_decompress_struct state_{};
};

}  // namespace

bool decode_jpeg(Bytes bytes, cv::Mat& rgb) { return JpegDecompressor(rgb).run(bytes); }

}  // namespace cogserve::image
