// Picture reading: milliseconds to decode and to resize, on one core. The pictures are made here.
#include <benchmark/benchmark.h>
#include <jpeglib.h>
#include <png.h>
#include <webp/encode.h>

#include <cmath>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "server/image/decoder.hpp"
#include "server/image/image_reader.hpp"
#include "server/image/normalize.hpp"
#include "server/image/preflight.hpp"
#include "server/image/resample.hpp"

namespace {

using namespace cogserve::image;

constexpr int kModelEdge = 1344;

// Smooth shapes with a little noise, so that it compresses about as a photograph does.
cv::Mat make_photograph(int width, int height) {
  std::mt19937 random(1);
  cv::Mat rgb(height, width, CV_8UC3);
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      for (int c = 0; c < 3; ++c) {
        const double wave = std::sin(x * 0.01 * (c + 1)) + std::cos(y * 0.013 + c);
        const double texture = ((x / 40 + y / 60) % 2) * 20.0 + static_cast<double>(random() % 12);
        rgb.at<cv::Vec3b>(y, x)[c] = cv::saturate_cast<uchar>(110 + 45 * wave + texture);
      }
    }
  }
  return rgb;
}

std::string encode_jpeg(const cv::Mat& rgb, bool progressive) {
  jpeg_compress_struct state{};
  jpeg_error_mgr errors;
  state.err = jpeg_std_error(&errors);
  jpeg_create_compress(&state);
  unsigned char* bytes = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&state, &bytes, &size);
  state.image_width = static_cast<JDIMENSION>(rgb.cols);
  state.image_height = static_cast<JDIMENSION>(rgb.rows);
  state.input_components = 3;
  state.in_color_space = JCS_RGB;
  jpeg_set_defaults(&state);
  jpeg_set_quality(&state, 90, TRUE);
  if (progressive) jpeg_simple_progression(&state);
  jpeg_start_compress(&state, TRUE);
  for (int y = 0; y < rgb.rows; ++y) {
    unsigned char* row = const_cast<unsigned char*>(rgb.ptr(y));
    jpeg_write_scanlines(&state, &row, 1);
  }
  jpeg_finish_compress(&state);
  jpeg_destroy_compress(&state);
  std::string encoded(reinterpret_cast<const char*>(bytes), size);
  std::free(bytes);
  return encoded;
}

std::string encode_png(const cv::Mat& rgb) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(rgb.cols);
  image.height = static_cast<png_uint_32>(rgb.rows);
  image.format = PNG_FORMAT_RGB;
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(image);
  std::string encoded(size, '\0');
  png_image_write_to_memory(&image, encoded.data(), &size, 0, rgb.data, 0, nullptr);
  encoded.resize(size);
  return encoded;
}

std::string encode_webp(const cv::Mat& rgb) {
  std::uint8_t* bytes = nullptr;
  const std::size_t size =
      WebPEncodeRGB(rgb.data, rgb.cols, rgb.rows, static_cast<int>(rgb.step), 85, &bytes);
  std::string encoded(reinterpret_cast<const char*>(bytes), size);
  WebPFree(bytes);
  return encoded;
}

void measure_decode(benchmark::State& state, const std::string& encoded) {
  for (auto _ : state) {
    const absl::StatusOr<cv::Mat> rgb = decode(encoded, ImageLimits{});
    if (!rgb.ok()) {
      state.SkipWithError(std::string(rgb.status().message()).c_str());
      break;
    }
    benchmark::DoNotOptimize(rgb->data);
  }
  state.counters["encoded_KiB"] = static_cast<double>(encoded.size()) / 1024;
}

void decode_jpeg_file(benchmark::State& state) {
  measure_decode(state, encode_jpeg(make_photograph(kModelEdge, kModelEdge), false));
}
void decode_progressive_jpeg_file(benchmark::State& state) {
  measure_decode(state, encode_jpeg(make_photograph(kModelEdge, kModelEdge), true));
}
void decode_png_file(benchmark::State& state) {
  measure_decode(state, encode_png(make_photograph(kModelEdge, kModelEdge)));
}
void decode_webp_file(benchmark::State& state) {
  measure_decode(state, encode_webp(make_photograph(kModelEdge, kModelEdge)));
}
void decode_large_jpeg_file(benchmark::State& state) {
  measure_decode(state, encode_jpeg(make_photograph(4000, 3000), false));
}

// Columns: width and height of the picture that is resized to the model's square.
void resize_to_model(benchmark::State& state) {
  const cv::Mat rgb =
      make_photograph(static_cast<int>(state.range(0)), static_cast<int>(state.range(1)));
  for (auto _ : state) {
    benchmark::DoNotOptimize(resize_bicubic(rgb, kModelEdge, kModelEdge).data);
  }
}

void normalize_pixels(benchmark::State& state) {
  const cv::Mat rgb = make_photograph(kModelEdge, kModelEdge);
  std::vector<float> chw(3 * rgb.total());
  for (auto _ : state) {
    to_pixels(rgb, chw);
    benchmark::DoNotOptimize(chw.data());
  }
}

void read_whole_jpeg(benchmark::State& state) {
  const std::string encoded = encode_jpeg(make_photograph(kModelEdge, kModelEdge), false);
  for (auto _ : state) {
    benchmark::DoNotOptimize(read_image(encoded, kModelEdge, ImageLimits{})->data());
  }
}

// 209 bytes that declare 16451x40405 pixels: the time to say no.
void refuse_bomb(benchmark::State& state) {
  std::string bomb(
      "\xFF\xD8\xFF\xC0\x00\x11\x08\x9D\xD5\x40\x43\x03\x01\x11\x00\x02\x11\x00\x03\x11\x00", 21);
  bomb.resize(209, 'a');
  for (auto _ : state) {
    if (decode(bomb, ImageLimits{}).ok()) state.SkipWithError("the bomb was decoded");
  }
}

}  // namespace

BENCHMARK(decode_jpeg_file)->Unit(benchmark::kMillisecond);
BENCHMARK(decode_progressive_jpeg_file)->Unit(benchmark::kMillisecond);
BENCHMARK(decode_png_file)->Unit(benchmark::kMillisecond);
BENCHMARK(decode_webp_file)->Unit(benchmark::kMillisecond);
BENCHMARK(decode_large_jpeg_file)->Unit(benchmark::kMillisecond);
BENCHMARK(resize_to_model)
    ->Args({4000, 3000})
    ->Args({1920, 1080})
    ->Args({640, 480})
    ->Unit(benchmark::kMillisecond);
BENCHMARK(normalize_pixels)->Unit(benchmark::kMillisecond);
BENCHMARK(read_whole_jpeg)->Unit(benchmark::kMillisecond);
BENCHMARK(refuse_bomb);

BENCHMARK_MAIN();
