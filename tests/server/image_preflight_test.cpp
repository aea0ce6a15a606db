#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "engine/base/error.hpp"
#include "server/image/preflight.hpp"
#include "tests/server/image_files.hpp"

namespace cogserve::image {
namespace {

using namespace cogserve::image::testing;

// The reason of the refusal, or "" if the picture is accepted.
std::string reason_for(const std::string& encoded, const ImageLimits& limits = {}) {
  const absl::StatusOr<ImageHeader> header = preflight(encoded, limits);
  if (header.ok()) return "";
  EXPECT_EQ(header.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(error_field(header.status()), "image");
  return error_reason(header.status());
}

struct Refusal {
  std::string what;
  std::string encoded;
  std::string reason;
};

void expect_refusals(const std::vector<Refusal>& refusals) {
  for (const Refusal& refusal : refusals) {
    EXPECT_EQ(reason_for(refusal.encoded), refusal.reason) << refusal.what;
  }
}

// Where the picture ends; what follows does not belong to it.
std::size_t end_of_picture(const Fixture& fixture) {
  const std::string& encoded = fixture.encoded;
  if (fixture.name.ends_with(".png")) return encoded.rfind("IEND") + 8;
  if (fixture.name.ends_with(".jpg")) {
    // Of two pictures in one file, the first is the picture.
    const std::size_t second = encoded.find("\xFF\xD8\xFF", 3);
    return encoded.rfind("\xFF\xD9", second) + 2;
  }
  return 8 + static_cast<unsigned char>(encoded[4]) + 256 * static_cast<unsigned char>(encoded[5]);
}

TEST(Preflight, reads_format_and_size_of_every_fixture) {
  for (const Fixture& fixture : load_fixtures()) {
    const absl::StatusOr<ImageHeader> header = preflight(fixture.encoded, ImageLimits{});
    ASSERT_TRUE(header.ok()) << fixture.name << ": " << header.status();
    EXPECT_EQ(header->width, fixture.width) << fixture.name;
    EXPECT_EQ(header->height, fixture.height) << fixture.name;
    const ImageFormat format = fixture.name.ends_with(".jpg")   ? ImageFormat::kJpeg
                               : fixture.name.ends_with(".png") ? ImageFormat::kPng
                                                                : ImageFormat::kWebp;
    EXPECT_EQ(header->format, format) << fixture.name;
  }
}

TEST(Preflight, refuses_every_truncation_of_every_fixture) {
  int truncations = 0;
  for (const Fixture& fixture : load_fixtures()) {
    const std::size_t magic = fixture.name.ends_with(".jpg")   ? 3
                              : fixture.name.ends_with(".png") ? 8
                                                               : 12;
    for (std::size_t size = 0; size < end_of_picture(fixture); ++size, ++truncations) {
      ASSERT_EQ(reason_for(fixture.encoded.substr(0, size)),
                size < magic ? "IMAGE_FORMAT" : "IMAGE_TRUNCATED")
          << fixture.name << " cut to " << size << " bytes";
    }
  }
  EXPECT_GT(truncations, 10000);
}

TEST(Preflight, ignores_bytes_after_the_end_as_upstream_does) {
  for (const Fixture& fixture : load_fixtures()) {
    const std::string alone = fixture.encoded.substr(0, end_of_picture(fixture));
    EXPECT_EQ(reason_for(alone), "") << fixture.name;
    for (const std::string& tail : {std::string("PK\x03\x04"), flat_png(4, 4), std::string(1, 0)}) {
      EXPECT_EQ(reason_for(alone + tail), "") << fixture.name;
    }
  }
}

TEST(Preflight, refuses_every_other_format_by_its_magic) {
  const std::vector<std::string> starts = {"",
                                           "G",
                                           "GIF87a",
                                           "GIF89a",
                                           "BM",
                                           std::string("II*\0", 4),
                                           std::string("MM\0*", 4),
                                           std::string("II+\0", 4),
                                           "\x76\x2F\x31\x01",
                                           std::string("\0\0\0\x0CjP  \r\n\x87\n", 12),
                                           "\xFF\x4F\xFF\x51",
                                           std::string("\0\0\0\x18"
                                                       "ftypheic",
                                                       12),
                                           std::string("\0\0\0\x1C"
                                                       "ftypavif",
                                                       12),
                                           "<svg xmlns=\"http://www.w3.org/2000/svg\">",
                                           "<?xml version=\"1.0\"?><svg/>",
                                           "%PDF-1.7",
                                           "%!PS-Adobe-3.0 EPSF-3.0",
                                           "<VRTDataset rasterXSize=\"8\" rasterYSize=\"8\">",
                                           "<MRF_META>",
                                           "#?RADIANCE",
                                           "P6\n8 8\n255\n",
                                           "P5\n8 8\n255\n",
                                           "PF\n8 8\n-1\n",
                                           "\x59\xA6\x6A\x95",
                                           std::string("\0\0\1\0", 4),
                                           "\x8AMNG\r\n\x1A\n",
                                           "\x8BJNG\r\n\x1A\n",
                                           "8BPS",
                                           "qoif",
                                           "\xFF\x0A",
                                           std::string("\0\0\0\x0CJXL \r\n\x87\n", 12),
                                           "SIMPLE  =                    T",
                                           "CDF\x01",
                                           "\x89HDF\r\n\x1A\n",
                                           "DICM",
                                           "RIFF",
                                           std::string("RIFF\x24\0\0\0WAVEfmt ", 16),
                                           std::string("RIFF\x24\0\0\0AVI LIST", 16),
                                           "gimp xcf ",
                                           "\x0A\x05\x01\x08",
                                           "MZ",
                                           "\x7F"
                                           "ELF",
                                           "PK\x03\x04",
                                           "\x1F\x8B\x08",
                                           "data:image/png;base64,iVBORw0KGgo=",
                                           "iVBORw0KGgo=",
                                           "http://127.0.0.1/a.png",
                                           "/vsicurl/http://127.0.0.1/a.png",
                                           "\xEF\xBB\xBF\xFF\xD8\xFF",
                                           "\xFF\xD8\x00",
                                           "\xFF\xD9\xFF",
                                           "\x89PNG\n\x1A\n\n",
                                           "\x89PNG\r\n\x1A\r"};
  for (const std::string& start : starts) {
    for (const std::size_t padding : {0, 1, 64, 4096}) {
      EXPECT_EQ(reason_for(start + std::string(padding, 'a')), "IMAGE_FORMAT") << start;
    }
  }
  EXPECT_EQ(reason_for(webp_file(riff_chunk("VRT ", "<VRTDataset>"))), "IMAGE_FORMAT");
  EXPECT_EQ(reason_for(webp_file(riff_chunk("vp8 ", std::string(40, 0)))), "IMAGE_FORMAT");
}

TEST(Preflight, refuses_more_encoded_bytes_than_the_limit) {
  ImageLimits limits;
  const std::string png = flat_png(8, 8);
  limits.max_encoded_bytes = png.size();
  EXPECT_EQ(reason_for(png, limits), "");
  limits.max_encoded_bytes = png.size() - 1;
  EXPECT_EQ(reason_for(png, limits), "IMAGE_TOO_LARGE");
  EXPECT_EQ(reason_for(std::string((std::size_t{10} << 20) + 1, 'a')), "IMAGE_TOO_LARGE");
}

TEST(Preflight, refuses_edges_outside_the_limits_in_each_format) {
  const std::vector<std::pair<int, int>> sizes = {
      {1, 1}, {3, 3}, {1, 100}, {100, 1}, {3, 16384}, {16384, 3}, {16385, 100}, {100, 16385}};
  for (const auto& [width, height] : sizes) {
    const auto size = ::testing::PrintToString(std::make_pair(width, height));
    EXPECT_EQ(reason_for(flat_png(width, height)), "IMAGE_EDGE") << size;
    EXPECT_EQ(reason_for(jpeg_file(jpeg_frame(width, height) + jpeg_scan())), "IMAGE_EDGE") << size;
    EXPECT_EQ(reason_for(webp_file(vp8x_header(width, height) + vp8_frame(width, height))),
              "IMAGE_EDGE")
        << size;
  }
  expect_refusals({
      {"PNG 0x8", png_file(png_header(0, 8) + png_data(1, 8)), "IMAGE_EDGE"},
      {"PNG 8x0", png_file(png_header(8, 0) + png_data(8, 1)), "IMAGE_EDGE"},
      {"PNG of the largest edges", png_file(png_header(0x7FFFFFFF, 0x7FFFFFFF)), "IMAGE_EDGE"},
      {"JPEG 0x8", jpeg_file(jpeg_frame(0, 8) + jpeg_scan()), "IMAGE_EDGE"},
      {"JPEG 8x0, to be told later", jpeg_file(jpeg_frame(8, 0) + jpeg_scan()), "IMAGE_EDGE"},
      {"lossy WebP 0x8", webp_file(vp8_frame(0, 8)), "IMAGE_EDGE"},
      {"lossy WebP 8x3", webp_file(vp8_frame(8, 3)), "IMAGE_EDGE"},
      {"lossless WebP 1x1", webp_file(vp8l_frame(1, 1)), "IMAGE_EDGE"},
      {"extended WebP of the largest canvas", webp_file(vp8x_header(1 << 24, 1 << 24)),
       "IMAGE_EDGE"},
  });
  EXPECT_EQ(reason_for(flat_png(4, 4)), "");
  EXPECT_EQ(reason_for(jpeg_file(jpeg_frame(16384, 4) + jpeg_scan())), "");
}

TEST(Preflight, refuses_decompression_bombs_from_the_header_alone) {
  const std::string comment = jpeg_segment(0xFE, std::string(1400, 'c'));
  const std::string padded = jpeg_file(comment + jpeg_frame(4096, 1300) + jpeg_scan());
  expect_refusals({
      {"209 bytes of JPEG with 16451x40405 pixels",
       jpeg_file(jpeg_frame(16451, 40405) + jpeg_scan(std::string(176, 'a'))), "IMAGE_EDGE"},
      {"JPEG with 16000x16000 pixels", jpeg_file(jpeg_frame(16000, 16000) + jpeg_scan()),
       "IMAGE_PIXELS"},
      {"JPEG with 4096x4096 pixels", jpeg_file(jpeg_frame(4096, 4096) + jpeg_scan()),
       "IMAGE_RATIO"},
      {"progressive JPEG with 2048x2048 pixels",
       jpeg_file(jpeg_frame(2048, 2048, 3, 0xC2) + jpeg_scan()), "IMAGE_RATIO"},
      {"PNG with 16384x16384 pixels", png_file(png_header(16384, 16384) + png_data(8, 8)),
       "IMAGE_PIXELS"},
      {"PNG with 4096x4096 pixels", png_file(png_header(4096, 4096) + png_data(8, 8)),
       "IMAGE_RATIO"},
      {"PNG that is a bomb and truncated", std::string(kPngMagic) + png_header(16384, 16384),
       "IMAGE_PIXELS"},
      {"lossless WebP with 16383x16383 pixels", webp_file(vp8l_frame(16383, 16383)),
       "IMAGE_PIXELS"},
      {"lossless WebP with 4000x4000 pixels", webp_file(vp8l_frame(4000, 4000)), "IMAGE_RATIO"},
      {"extended WebP with 4000x4000 pixels",
       webp_file(vp8x_header(4000, 4000) + vp8_frame(4000, 4000)), "IMAGE_RATIO"},
  });
  EXPECT_EQ(reason_for(padded), "") << "enough bytes for its pixels";
  // An honest flat picture of the size that the model takes has about a thousand pixels a byte.
  EXPECT_EQ(reason_for(flat_png(1344, 1344)), "");
}

TEST(Preflight, pixel_and_ratio_limits_are_exact) {
  ImageLimits limits;
  limits.max_pixels = 400;
  EXPECT_EQ(reason_for(flat_png(20, 20), limits), "");
  EXPECT_EQ(reason_for(flat_png(20, 21), limits), "IMAGE_PIXELS");
  limits = ImageLimits{};
  limits.max_pixels_per_byte = 2;
  const std::string png = flat_png(20, 20);
  limits.free_pixels = 400 - 2 * static_cast<int64_t>(png.size());
  EXPECT_EQ(reason_for(png, limits), "");
  --limits.free_pixels;
  EXPECT_EQ(reason_for(png, limits), "IMAGE_RATIO");
}

TEST(Preflight, refuses_jpeg_files_with_a_wrong_structure) {
  const std::string frame = jpeg_frame(8, 8), scan = jpeg_scan();
  const std::string progressive = jpeg_frame(8, 8, 3, 0xC2);
  std::string hundred_scans, empty_scan = jpeg_scan("");
  for (int i = 0; i < 100; ++i) hundred_scans += empty_scan;
  expect_refusals({
      {"no frame", jpeg_file(scan), "IMAGE_DECODE"},
      {"no scan", jpeg_file(frame), "IMAGE_DECODE"},
      {"nothing", jpeg_file(""), "IMAGE_DECODE"},
      {"two frames", jpeg_file(frame + frame + scan), "IMAGE_DECODE"},
      {"two frames of two sizes", jpeg_file(frame + jpeg_frame(9000, 9000) + scan), "IMAGE_DECODE"},
      {"a frame after the scan", jpeg_file(frame + scan + frame), "IMAGE_DECODE"},
      {"a larger frame after the scan", jpeg_file(frame + scan + jpeg_frame(9999, 9999)),
       "IMAGE_DECODE"},
      {"a second start", jpeg_file(frame + "\xFF\xD8" + scan), "IMAGE_DECODE"},
      {"a restart outside a scan", jpeg_file("\xFF\xD0" + frame + scan), "IMAGE_DECODE"},
      {"bytes between segments", jpeg_file(jpeg_segment(0xE0, "") + "x" + frame + scan),
       "IMAGE_DECODE"},
      {"a segment of length 0", jpeg_file(std::string("\xFF\xE0\0\0", 4) + frame + scan),
       "IMAGE_DECODE"},
      {"a segment of length 1", jpeg_file(std::string("\xFF\xE0\0\1", 4) + frame + scan),
       "IMAGE_DECODE"},
      {"a segment that runs past the end", jpeg_file(frame + std::string("\xFF\xE1\xFF\xFF", 4)),
       "IMAGE_TRUNCATED"},
      {"a scan header that runs past the end",
       "\xFF\xD8" + frame + std::string("\xFF\xDA\0\x40", 4), "IMAGE_TRUNCATED"},
      {"a frame shorter than its components",
       jpeg_file(jpeg_segment(0xC0, std::string("\x08\0\x08\0\x08\x03\x01\x11\0", 9)) + scan),
       "IMAGE_DECODE"},
      {"an empty frame", jpeg_file(jpeg_segment(0xC0, "") + scan), "IMAGE_DECODE"},
      {"two components", jpeg_file(jpeg_frame(8, 8, 2) + scan), "IMAGE_FORMAT"},
      {"five components", jpeg_file(jpeg_frame(8, 8, 5) + scan), "IMAGE_FORMAT"},
      {"no components", jpeg_file(jpeg_frame(8, 8, 0) + scan), "IMAGE_FORMAT"},
      {"12 bits", jpeg_file(jpeg_frame(8, 8, 3, 0xC1, 12) + scan), "IMAGE_FORMAT"},
      {"lossless", jpeg_file(jpeg_frame(8, 8, 3, 0xC3) + scan), "IMAGE_FORMAT"},
      {"hierarchical", jpeg_file(jpeg_frame(8, 8, 3, 0xC5) + scan), "IMAGE_FORMAT"},
      {"lossless, arithmetic", jpeg_file(jpeg_frame(8, 8, 3, 0xCB) + scan), "IMAGE_FORMAT"},
      {"a component scanned twice", jpeg_file(frame + scan + jpeg_scan("data", 1)), "IMAGE_DECODE"},
      {"a component never scanned", jpeg_file(frame + jpeg_scan("data", 2)), "IMAGE_DECODE"},
      {"a scan of no component", jpeg_file(frame + jpeg_scan("data", 0)), "IMAGE_DECODE"},
      {"a scan header of another length",
       jpeg_file(frame + jpeg_segment(0xDA, std::string("\3\1\0\0\x3F\0", 6))), "IMAGE_DECODE"},
      {"an empty scan header", jpeg_file(frame + jpeg_segment(0xDA, "")), "IMAGE_DECODE"},
      {"101 progressive scans", jpeg_file(progressive + hundred_scans + empty_scan),
       "IMAGE_DECODE"},
      {"the end hidden in a comment", "\xFF\xD8" + frame + scan + jpeg_segment(0xFE, "\xFF\xD9"),
       "IMAGE_TRUNCATED"},
      {"the end hidden as data", "\xFF\xD8" + frame + jpeg_scan(std::string("\xFF\0\xD9", 3)),
       "IMAGE_TRUNCATED"},
      {"a lone FF at the end", "\xFF\xD8" + frame + scan + "\xFF", "IMAGE_TRUNCATED"},
      {"only fill bytes", cat("\xFF\xD8", std::string(5000, '\xFF')), "IMAGE_TRUNCATED"},
  });
  EXPECT_EQ(reason_for(jpeg_file(progressive + hundred_scans)), "");
  EXPECT_EQ(reason_for(jpeg_file(frame + jpeg_scan("a", 1) + jpeg_scan("b", 2))), "");
  EXPECT_EQ(reason_for(jpeg_file(cat("\xFF\xFF\xFF", jpeg_segment(0xE0, ""), frame, scan))), "")
      << "fill bytes before a marker";
}

TEST(Preflight, huge_metadata_is_skipped_not_read) {
  std::string segments;
  for (int i = 0; i < 100; ++i) segments += jpeg_segment(0xE2, std::string(65533, '\xFF'));
  EXPECT_EQ(reason_for(jpeg_file(segments + jpeg_frame(8, 8) + jpeg_scan())), "");
  const std::string profile = png_chunk("iCCP", std::string(5 << 20, 'i'));
  EXPECT_EQ(reason_for(png_file(png_header(8, 8) + profile + png_data(8, 8))), "");
  const std::string exif = riff_chunk("EXIF", std::string(5 << 20, 'e'));
  EXPECT_EQ(reason_for(webp_file(vp8x_header(8, 8) + vp8_frame(8, 8) + exif)), "");
}

TEST(Preflight, refuses_png_files_with_a_wrong_structure) {
  const std::string header = png_header(8, 8), data = png_data(8, 8), magic(kPngMagic);
  const std::string text = png_chunk("tEXt", std::string("a\0b", 3));
  const std::string far_away = big_endian(0x7FFFFFFF, 4);
  expect_refusals({
      {"data first", png_file(data + header), "IMAGE_DECODE"},
      {"text first", png_file(text + header + data), "IMAGE_DECODE"},
      {"no data", png_file(header), "IMAGE_DECODE"},
      {"two headers", png_file(header + header + data), "IMAGE_DECODE"},
      {"a larger header behind the data", png_file(header + data + png_header(9999, 9999)),
       "IMAGE_DECODE"},
      {"two runs of data", png_file(header + data + text + data), "IMAGE_DECODE"},
      {"no end", magic + header + data, "IMAGE_TRUNCATED"},
      {"a header of 12 bytes", png_file(png_chunk("IHDR", std::string(12, 8))), "IMAGE_DECODE"},
      {"a header of 14 bytes", png_file(png_chunk("IHDR", std::string(14, 8))), "IMAGE_DECODE"},
      {"a chunk that runs past the end", magic + header + far_away + "IDATabcdefgh",
       "IMAGE_TRUNCATED"},
      {"a chunk of 4 GiB", magic + header + "\xFF\xFF\xFF\xFFIDATabcdefgh", "IMAGE_TRUNCATED"},
      {"a chunk type that is no text", png_file(header + png_chunk("ID\x80T", "") + data),
       "IMAGE_DECODE"},
      {"a chunk type with digits", png_file(header + png_chunk("1234", "") + data), "IMAGE_DECODE"},
      {"a width beyond 31 bits", png_file(png_header(0x80000000u, 8) + data), "IMAGE_DECODE"},
      {"a height beyond 31 bits", png_file(png_header(8, 0xFFFFFFFFu) + data), "IMAGE_DECODE"},
      {"color type 1", png_file(png_header(8, 8, 8, 1) + data), "IMAGE_DECODE"},
      {"color type 5", png_file(png_header(8, 8, 8, 5) + data), "IMAGE_DECODE"},
      {"color type 7", png_file(png_header(8, 8, 8, 7) + data), "IMAGE_DECODE"},
      {"color type 255", png_file(png_header(8, 8, 8, 255) + data), "IMAGE_DECODE"},
      {"0 bits", png_file(png_header(8, 8, 0, 0) + data), "IMAGE_DECODE"},
      {"3 bits", png_file(png_header(8, 8, 3, 0) + data), "IMAGE_DECODE"},
      {"32 bits", png_file(png_header(8, 8, 32, 0) + data), "IMAGE_DECODE"},
      {"4-bit RGB", png_file(png_header(8, 8, 4, 2) + data), "IMAGE_DECODE"},
      {"16-bit palette", png_file(png_header(8, 8, 16, 3) + data), "IMAGE_DECODE"},
      {"1-bit RGBA", png_file(png_header(8, 8, 1, 6) + data), "IMAGE_DECODE"},
      {"interlace 2", png_file(png_header(8, 8, 8, 2, 2) + data), "IMAGE_DECODE"},
      {"animated", png_file(header + png_chunk("acTL", std::string(8, 1)) + data), "IMAGE_FORMAT"},
      {"animated behind the data", png_file(header + data + png_chunk("acTL", std::string(8, 1))),
       "IMAGE_FORMAT"},
  });
  std::string compression = png_file(header + data);
  compression[26] = 1;
  EXPECT_EQ(reason_for(compression), "IMAGE_DECODE");
}

TEST(Preflight, refuses_webp_files_with_a_wrong_structure) {
  const std::string lossy = vp8_frame(8, 8), lossless = vp8l_frame(8, 8);
  const std::string extended = vp8x_header(8, 8);
  const auto with_riff_size = [](std::string file, std::uint32_t size) {
    return file.replace(4, 4, little_endian(size, 4));
  };
  const auto size_of = [](const std::string& file) {
    return static_cast<std::uint32_t>(file.size() - 8);
  };
  const std::string file = webp_file(lossy);
  std::string inter_frame = file, no_start_code = file, bad_signature = webp_file(lossless);
  inter_frame[20] |= 1;
  no_start_code[23] = 0;
  bad_signature[20] = 0;
  std::string new_version = webp_file(lossless);
  new_version[24] = static_cast<char>(new_version[24] | 0x20);
  expect_refusals({
      {"a RIFF size beyond the file", with_riff_size(file, size_of(file) + 1), "IMAGE_TRUNCATED"},
      {"a RIFF size of 4 GiB", with_riff_size(file, 0xFFFFFFFF), "IMAGE_TRUNCATED"},
      {"a RIFF size short of its chunk", with_riff_size(file, size_of(file) - 2),
       "IMAGE_TRUNCATED"},
      {"a RIFF size of 0", with_riff_size(file, 0), "IMAGE_DECODE"},
      {"a RIFF size of 4", with_riff_size(file, 4), "IMAGE_TRUNCATED"},
      {"a chunk beyond the RIFF", webp_file(cat("VP8 ", little_endian(500, 4), std::string(40, 0))),
       "IMAGE_TRUNCATED"},
      {"a chunk of 4 GiB", webp_file(cat("VP8 \xFF\xFF\xFF\xFF", std::string(40, 0))),
       "IMAGE_TRUNCATED"},
      {"an empty lossy chunk", webp_file(riff_chunk("VP8 ", "")), "IMAGE_DECODE"},
      {"a lossy chunk of 9 bytes", webp_file(riff_chunk("VP8 ", std::string(9, 0))),
       "IMAGE_DECODE"},
      {"an empty lossless chunk", webp_file(riff_chunk("VP8L", "")), "IMAGE_DECODE"},
      {"an inter frame", inter_frame, "IMAGE_DECODE"},
      {"no start code", no_start_code, "IMAGE_DECODE"},
      {"no lossless signature", bad_signature, "IMAGE_DECODE"},
      {"a lossless version of the future", new_version, "IMAGE_DECODE"},
      {"a short extended header", webp_file(riff_chunk("VP8X", std::string(9, 0)) + lossy),
       "IMAGE_DECODE"},
      {"extended without image", webp_file(extended), "IMAGE_DECODE"},
      {"extended with metadata alone", webp_file(extended + riff_chunk("EXIF", "abc")),
       "IMAGE_DECODE"},
      {"extended with two images", webp_file(extended + lossy + lossy), "IMAGE_DECODE"},
      {"extended with an image of another size", webp_file(extended + vp8_frame(16, 16)),
       "IMAGE_DECODE"},
      {"a canvas smaller than its bomb", webp_file(extended + vp8l_frame(16384, 16384)),
       "IMAGE_DECODE"},
      {"animated by its flag", webp_file(vp8x_header(8, 8, 2) + lossy), "IMAGE_FORMAT"},
      {"animated by a chunk", webp_file(extended + riff_chunk("ANIM", std::string(6, 0)) + lossy),
       "IMAGE_FORMAT"},
      {"animated by a frame", webp_file(extended + riff_chunk("ANMF", std::string(24, 0))),
       "IMAGE_FORMAT"},
      {"a cut chunk behind the image", webp_file(extended + lossy + "EXIF"), "IMAGE_TRUNCATED"},
  });
  for (const std::string& good : {file, webp_file(lossless), webp_file(extended + lossless)}) {
    EXPECT_EQ(reason_for(good), "");
  }
}

TEST(Preflight, messages_tell_limit_and_value_and_nothing_of_the_inside) {
  const absl::Status status =
      preflight(jpeg_file(jpeg_frame(16451, 40405) + jpeg_scan()), ImageLimits{}).status();
  EXPECT_EQ(status.message(), "the image is 16451x40405; each edge must have 4 to 16384 pixels");
}

}  // namespace
}  // namespace cogserve::image
