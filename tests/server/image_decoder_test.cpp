#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "engine/base/error.hpp"
#include "server/image/decoder.hpp"
#include "server/image/preflight.hpp"
#include "tests/server/image_files.hpp"

namespace cogserve::image {
namespace {

using namespace cogserve::image::testing;

std::string bytes_of(const cv::Mat& rgb) {
  std::string bytes;
  for (int y = 0; y < rgb.rows; ++y) {
    bytes.append(reinterpret_cast<const char*>(rgb.ptr(y)), rgb.cols * rgb.elemSize());
  }
  return bytes;
}

// "" if the picture is decoded.
std::string reason_for(const std::string& encoded) {
  return error_reason(decode(encoded, ImageLimits{}).status());
}

std::string decoded(const std::string& encoded) {
  const absl::StatusOr<cv::Mat> rgb = decode(encoded, ImageLimits{});
  EXPECT_TRUE(rgb.ok()) << rgb.status();
  return rgb.ok() ? bytes_of(*rgb) : "";
}

// Half of the coded data gone, and everything around it put right: a file that only its codec can
// find fault with.
std::string halved(const std::string& name, const std::string& encoded) {
  if (name.ends_with(".jpg")) {
    const std::size_t scan = encoded.find("\xFF\xDA"), end = encoded.find("\xFF\xD9", scan);
    return encoded.substr(0, scan + 14 + (end - scan - 14) / 2) + "\xFF\xD9";
  }
  if (name.ends_with(".png")) {
    const std::size_t data = encoded.find("IDAT"), end = encoded.rfind("IEND") - 4;
    const std::size_t length = (end - data - 8) / 2;
    return encoded.substr(0, data - 4) + png_chunk("IDAT", encoded.substr(data + 4, length)) +
           png_chunk("IEND", "");
  }
  std::size_t chunk = encoded.find("VP8L");
  if (chunk == std::string::npos) chunk = encoded.find("VP8 ");
  const std::string body = encoded.substr(chunk + 8);
  return webp_file(encoded.substr(12, chunk - 12) +
                   riff_chunk(encoded.substr(chunk, 4), body.substr(0, body.size() / 2)));
}

TEST(Decoder, every_mode_of_every_format_equals_pillow) {
  for (const Fixture& fixture : load_fixtures()) {
    const absl::StatusOr<cv::Mat> rgb = decode(fixture.encoded, ImageLimits{});
    ASSERT_TRUE(rgb.ok()) << fixture.name << ": " << rgb.status();
    EXPECT_EQ(rgb->type(), CV_8UC3) << fixture.name;
    EXPECT_EQ(rgb->cols, fixture.width) << fixture.name;
    EXPECT_EQ(rgb->rows, fixture.height) << fixture.name;
    EXPECT_TRUE(bytes_of(*rgb) == fixture.decoded) << fixture.name << " differs from Pillow";
  }
}

TEST(Decoder, obeys_the_limits_of_preflight) {
  ImageLimits limits;
  limits.max_edge = 22;
  const absl::Status status = decode(fixture_bytes("444.jpg"), limits).status();  // 23x17
  EXPECT_EQ(error_reason(status), "IMAGE_EDGE");
  EXPECT_EQ(reason_for("GIF89a"), "IMAGE_FORMAT");
}

TEST(Decoder, half_of_a_picture_is_refused_after_any_other_and_leaves_no_trace) {
  const std::vector<Fixture> fixtures = load_fixtures();
  int refused = 0;
  for (const Fixture& first : fixtures) {
    if (first.width != 23) continue;  // one of each kind is enough to come before
    for (const Fixture& second : fixtures) {
      ASSERT_TRUE(decoded(first.encoded) == first.decoded) << first.name;
      const std::string reason = reason_for(halved(second.name, second.encoded));
      EXPECT_TRUE(reason == "IMAGE_DECODE" || reason == "IMAGE_TRUNCATED")
          << "half of " << second.name << " after " << first.name << ": " << reason;
      refused += reason.empty() ? 0 : 1;
    }
  }
  EXPECT_GT(refused, 1000);
  for (const Fixture& fixture : fixtures) {
    EXPECT_TRUE(decoded(fixture.encoded) == fixture.decoded) << fixture.name;
  }
}

TEST(Decoder, any_single_changed_byte_gives_a_picture_of_the_declared_size_or_a_refusal) {
  int accepted = 0, refused = 0;
  for (const Fixture& fixture : load_fixtures()) {
    for (std::size_t at = 0; at < fixture.encoded.size(); at += 5) {
      std::string changed = fixture.encoded;
      changed[at] = static_cast<char>(changed[at] ^ (1 << (at % 8)));
      const absl::StatusOr<cv::Mat> rgb = decode(changed, ImageLimits{});
      if (rgb.ok()) {
        const absl::StatusOr<ImageHeader> header = preflight(changed, ImageLimits{});
        ASSERT_TRUE(header.ok());
        ASSERT_EQ(rgb->cols, header->width) << fixture.name << " changed at " << at;
        ASSERT_EQ(rgb->rows, header->height) << fixture.name << " changed at " << at;
        ++accepted;
      } else {
        ASSERT_TRUE(error_reason(rgb.status()).starts_with("IMAGE_")) << fixture.name;
        ++refused;
      }
    }
  }
  EXPECT_GT(accepted, 1000);
  EXPECT_GT(refused, 1000);
}

TEST(Decoder, jpeg_data_that_end_early_or_go_wrong_are_refused) {
  const std::string jpeg = fixture_bytes("420.jpg");
  const std::size_t data = jpeg.find("\xFF\xDA") + 14, end = jpeg.rfind("\xFF\xD9");
  for (std::size_t kept = 0; kept + 8 < end - data; ++kept) {
    EXPECT_EQ(reason_for(jpeg.substr(0, data + kept) + "\xFF\xD9"), "IMAGE_DECODE")
        << kept << " bytes of data kept";
  }
  EXPECT_EQ(reason_for(jpeg.substr(0, data) + std::string(500, '\xFE') + "\xFF\xD9"),
            "IMAGE_DECODE");
  EXPECT_EQ(reason_for(jpeg.substr(0, end) + std::string(500, 'a') + "\xFF\xD9"), "IMAGE_DECODE")
      << "data behind the last block";
  EXPECT_EQ(reason_for(jpeg_file(jpeg_frame(8, 8) + jpeg_scan())), "IMAGE_DECODE") << "no tables";
}

TEST(Decoder, an_unknown_jfif_version_is_no_corruption) {
  std::string jpeg = fixture_bytes("444.jpg");
  jpeg[jpeg.find("JFIF") + 5] = 2;
  EXPECT_EQ(decoded(jpeg), decoded(fixture_bytes("444.jpg")));
}

TEST(Decoder, a_wrong_checksum_in_any_png_chunk_is_refused) {
  const std::string png = fixture_bytes("ancillary.png");
  int chunks = 0;
  for (const char* type : {"IHDR", "gAMA", "sRGB", "iCCP", "eXIf", "zTXt", "IDAT", "IEND"}) {
    std::string changed = png;
    const std::size_t at = changed.find(type);
    ASSERT_NE(at, std::string::npos) << type;
    const std::size_t length =
        static_cast<unsigned char>(png[at - 1]) + 256 * static_cast<unsigned char>(png[at - 2]);
    changed[at + 4 + length] ^= 1;
    EXPECT_EQ(reason_for(changed), "IMAGE_DECODE") << type;
    ++chunks;
  }
  EXPECT_EQ(chunks, 8);
}

TEST(Decoder, png_data_of_another_length_or_kind_are_refused) {
  const std::string header = png_header(8, 8);
  EXPECT_EQ(reason_for(png_file(header + png_data(8, 8))), "");
  EXPECT_EQ(reason_for(png_file(header + png_data(8, 7))), "IMAGE_DECODE") << "a row too few";
  EXPECT_EQ(reason_for(png_file(header + png_data(7, 8))), "IMAGE_DECODE") << "a column too few";
  EXPECT_EQ(reason_for(png_file(header + png_chunk("IDAT", ""))), "IMAGE_DECODE");
  EXPECT_EQ(reason_for(png_file(header + png_chunk("IDAT", "not deflated"))), "IMAGE_DECODE");
  EXPECT_EQ(reason_for(png_file(header + png_chunk("IDAT", deflated(std::string(200, '\x09'))))),
            "IMAGE_DECODE")
      << "an unknown row filter";
  EXPECT_EQ(reason_for(png_file(header + png_chunk("ABCD", "critical") + png_data(8, 8))),
            "IMAGE_DECODE")
      << "an unknown critical chunk";
  EXPECT_EQ(reason_for(png_file(png_header(8, 8, 8, 3) + png_data(3, 8))), "IMAGE_DECODE")
      << "no palette";
}

TEST(Decoder, a_bomb_behind_the_last_png_row_is_not_inflated) {
  const std::string rows(8 * 25, '\0');
  const auto file_of = [](const std::string& data) {
    return png_file(png_header(8, 8) + png_chunk("IDAT", data));
  };
  EXPECT_EQ(reason_for(file_of(deflated(rows + std::string(5000, '\0')))), "")
      << "upstream reads a picture with a little too much";
  // 4 GB of zeros in 4 MB: the same flushed block again and again.
  const std::string block = deflated_block(std::string(std::size_t{1} << 20, '\0'));
  std::string bomb = cat("\x78\xDA", deflated_block(rows));
  for (int i = 0; i < 4000; ++i) bomb += block;
  EXPECT_EQ(reason_for(file_of(bomb)), "IMAGE_DECODE");
}

TEST(Decoder, a_flat_picture_of_full_size_is_what_it_was) {
  EXPECT_TRUE(decoded(flat_png(1344, 1344, 'q')) == std::string(std::size_t{3} * 1344 * 1344, 'q'));
}

TEST(Decoder, a_progressive_picture_without_its_last_scans_is_refused) {
  for (const char* name : {"progressive.jpg", "grey-progressive.jpg", "cmyk-progressive.jpg"}) {
    const std::string jpeg = fixture_bytes(name);
    int scans = 0;
    for (std::size_t at = jpeg.find("\xFF\xDA"); at != std::string::npos; ++scans) {
      // The tables of a scan stand before it: cut behind the scan, at the next marker.
      std::size_t end = at + 2;
      do {
        end = jpeg.find('\xFF', end + 1);
      } while (jpeg[end + 1] == '\0');
      const bool is_last = jpeg.substr(end, 2) == "\xFF\xD9";
      EXPECT_EQ(reason_for(jpeg.substr(0, end) + "\xFF\xD9"), is_last ? "" : "IMAGE_DECODE")
          << name << " with " << scans + 1 << " scans";
      at = jpeg.find("\xFF\xDA", end);
    }
    EXPECT_GT(scans, 3) << name;
  }
}

TEST(Decoder, messages_never_quote_a_library_or_the_bytes) {
  for (const char* name : {"420.jpg", "rgb8.png", "lossy0.webp", "lossless0.webp"}) {
    EXPECT_EQ(
        std::string(decode(halved(name, fixture_bytes(name)), ImageLimits{}).status().message()),
        "the image data are corrupt or incomplete");
  }
}

}  // namespace
}  // namespace cogserve::image
