#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>

#include <png.h>

#include "server/image/codecs.hpp"

namespace cogserve::image {
namespace {

// What may follow the last row's compressed bytes. libpng inflates all of it to find the stream's
// end, so this bounds the work that a bomb behind the picture can cause.
constexpr std::size_t kTailBytes = std::size_t{16} << 10;

// One read. libpng reports errors by longjmp: `run` owns nothing with a destructor, and what must
// be released belongs to the object.
class PngReader {
 public:
  PngReader(Bytes bytes, cv::Mat& rgb) : bytes_(bytes), rgb_(rgb) {
    png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, &PngReader::on_error,
                                  [](png_structp, png_const_charp) {});
    if (png_ != nullptr) info_ = png_create_info_struct(png_);
  }
  PngReader(const PngReader&) = delete;
  PngReader& operator=(const PngReader&) = delete;
  ~PngReader() { png_destroy_read_struct(&png_, &info_, nullptr); }

  bool run() {
    if (png_ == nullptr || info_ == nullptr) return false;
    if (setjmp(png_jmpbuf(png_)) != 0) return false;
    set_up();
    png_read_info(png_, info_);
    if (png_get_image_width(png_, info_) != static_cast<png_uint_32>(rgb_.cols) ||
        png_get_image_height(png_, info_) != static_cast<png_uint_32>(rgb_.rows)) {
      return false;
    }
    const bool is_grey_16 = png_get_color_type(png_, info_) == PNG_COLOR_TYPE_GRAY &&
                            png_get_bit_depth(png_, info_) == 16;
    if (is_grey_16) {
      read_grey_16();
    } else {
      read_rgb();
    }
    png_read_end(png_, nullptr);
    return true;
  }

 private:
  [[noreturn]] static void on_error(png_structp png, png_const_charp) { png_longjmp(png, 1); }

  static void on_read(png_structp png, png_bytep target, png_size_t count) {
    PngReader& self = *static_cast<PngReader*>(png_get_io_ptr(png));
    if (count > self.bytes_.size() - self.at_ || count > self.budget_) png_longjmp(png, 1);
    std::memcpy(target, self.bytes_.data() + self.at_, count);
    self.at_ += count;
    self.budget_ -= count;
  }

  void set_up() {
    png_set_read_fn(png_, this, &PngReader::on_read);
    png_set_crc_action(png_, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
    // Preflight has set the limits. Ancillary chunks are skipped unread: no profile, no gamma, no
    // text to inflate, and no transparency, which upstream drops.
    png_set_user_limits(png_, static_cast<png_uint_32>(rgb_.cols),
                        static_cast<png_uint_32>(rgb_.rows));
    png_set_chunk_malloc_max(png_, bytes_.size());
    png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);
    png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_NEVER,
                                reinterpret_cast<png_const_bytep>("tRNS"), 1);
    // Some writers declare a smaller deflate window than they use; upstream reads their files.
    png_set_option(png_, PNG_MAXIMUM_INFLATE_WINDOW, PNG_OPTION_ON);
  }

  // Everything but 16-bit grey: libpng itself expands, drops alpha and takes the high bytes.
  void read_rgb() {
    png_set_strip_16(png_);
    png_set_strip_alpha(png_);
    png_set_palette_to_rgb(png_);
    png_set_expand_gray_1_2_4_to_8(png_);
    png_set_gray_to_rgb(png_);
    read_rows(rgb_);
  }

  // Pillow cuts 16-bit grey at 255, where it takes the high byte of all else.
  void read_grey_16() {
    grey_ = cv::Mat::zeros(rgb_.rows, rgb_.cols, CV_16UC1);
    if constexpr (std::endian::native == std::endian::little) png_set_swap(png_);
    read_rows(grey_);
    for (int y = 0; y < rgb_.rows; ++y) {
      const std::uint16_t* grey = grey_.ptr<std::uint16_t>(y);
      unsigned char* target = rgb_.ptr(y);
      for (int x = 0; x < rgb_.cols; ++x) {
        std::memset(target + 3 * x, std::min<int>(grey[x], 255), 3);
      }
    }
  }

  void read_rows(cv::Mat& target) {
    const int passes = png_set_interlace_handling(png_);
    png_read_update_info(png_, info_);
    if (png_get_rowbytes(png_, info_) != target.cols * target.elemSize()) png_longjmp(png_, 1);
    for (int pass = 0; pass < passes; ++pass) {
      for (int y = 0; y < target.rows; ++y) {
        const bool is_last = pass == passes - 1 && y == target.rows - 1;
        if (is_last) budget_ = kTailBytes + 2 * raw_row_bytes();
        png_read_row(png_, target.ptr(y), nullptr);
      }
    }
    budget_ = bytes_.size();
  }

  // The most that a row can have before it is compressed.
  std::size_t raw_row_bytes() const { return static_cast<std::size_t>(rgb_.cols) * 8; }

  Bytes bytes_;
  cv::Mat& rgb_;
  cv::Mat grey_;  // CV_16UC1, only for 16-bit grey
  std::size_t at_ = 0;
  std::size_t budget_ = bytes_.size();  // bytes that may still be read
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
};

}  // namespace

bool decode_png(Bytes bytes, cv::Mat& rgb) { return PngReader(bytes, rgb).run(); }

}  // namespace cogserve::image
