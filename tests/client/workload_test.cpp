#include "client/bench/workload.hpp"

#include <gtest/gtest.h>

#include <cstdio>
// clang-format off
#include <jpeglib.h>
// clang-format on
#include <png.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "client/bench/arrivals.hpp"
#include "tests/temporary_directory.hpp"

namespace cogserve::client {
namespace {

std::vector<double> times(double rate, double burstiness, uint64_t seed, int count) {
  Arrivals arrivals(rate, burstiness, seed);
  std::vector<double> result;
  for (int i = 0; i < count; ++i) result.push_back(arrivals.next());
  return result;
}

// Standard deviation of the gaps over their mean.
double variation(const std::vector<double>& arrivals) {
  double sum = 0;
  double squares = 0;
  double last = 0;
  for (const double time : arrivals) {
    sum += time - last;
    squares += (time - last) * (time - last);
    last = time;
  }
  const auto count = static_cast<double>(arrivals.size());
  const double mean = sum / count;
  return std::sqrt(squares / count - mean * mean) / mean;
}

TEST(Arrivals, the_same_seed_gives_the_same_times) {
  EXPECT_EQ(times(5, 0.25, 7, 100), times(5, 0.25, 7, 100));
  EXPECT_NE(times(5, 0.25, 7, 100), times(5, 0.25, 8, 100));
}

TEST(Arrivals, keep_the_rate_and_never_go_back) {
  const auto arrivals = times(20, 1, 1, 20000);
  EXPECT_TRUE(std::is_sorted(arrivals.begin(), arrivals.end()));
  EXPECT_NEAR(arrivals.back(), 1000, 30);
}

TEST(Arrivals, burstiness_sets_the_variation_of_the_gaps) {
  EXPECT_NEAR(variation(times(10, 1, 3, 20000)), 1.0, 0.05);     // Poisson
  EXPECT_NEAR(variation(times(10, 0.25, 3, 20000)), 2.0, 0.15);  // bursts
  EXPECT_NEAR(variation(times(10, 100, 3, 20000)), 0.1, 0.01);   // even
}

TEST(Arrivals, an_infinite_rate_is_due_at_once) {
  for (const double time : times(INFINITY, 1, 0, 10)) EXPECT_EQ(time, 0);
}

[[noreturn]] void refuse(j_common_ptr) { throw std::runtime_error("not a JPEG"); }

// Decodes every line; throws on a bad file and counts libjpeg's warnings.
void expect_jpeg(const std::string& bytes, unsigned width, unsigned height) {
  jpeg_decompress_struct jpeg{};
  jpeg_error_mgr errors{};
  jpeg.err = jpeg_std_error(&errors);
  errors.error_exit = refuse;
  jpeg_create_decompress(&jpeg);
  jpeg_mem_src(&jpeg, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
  jpeg_read_header(&jpeg, TRUE);
  jpeg_start_decompress(&jpeg);
  EXPECT_EQ(jpeg.output_width, width);
  EXPECT_EQ(jpeg.output_height, height);
  std::vector<unsigned char> row(static_cast<size_t>(width) * 3);
  while (jpeg.output_scanline < jpeg.output_height) {
    unsigned char* line = row.data();
    jpeg_read_scanlines(&jpeg, &line, 1);
  }
  jpeg_finish_decompress(&jpeg);
  EXPECT_EQ(errors.num_warnings, 0);
  jpeg_destroy_decompress(&jpeg);
}

TEST(Picture, is_a_whole_jpeg_of_the_size_asked_for) {
  expect_jpeg(make_picture({.width = 161, .height = 97}, 1), 161, 97);
  expect_jpeg(make_picture({.width = 1, .height = 1}, 1), 1, 1);
  expect_jpeg(make_picture({.width = 64, .height = 64, .noise = true}, 1), 64, 64);
}

TEST(Picture, is_a_png_where_asked_for) {
  const std::string bytes = make_picture({.width = 40, .height = 30, .png = true}, 1);
  png_image png{};
  png.version = PNG_IMAGE_VERSION;
  ASSERT_NE(png_image_begin_read_from_memory(&png, bytes.data(), bytes.size()), 0);
  EXPECT_EQ(png.width, 40U);
  EXPECT_EQ(png.height, 30U);
  std::vector<unsigned char> pixels(PNG_IMAGE_SIZE(png));
  EXPECT_NE(png_image_finish_read(&png, nullptr, pixels.data(), 0, nullptr), 0);
}

TEST(Picture, depends_on_the_seed_alone) {
  const PictureSpec spec{.width = 64, .height = 64};
  EXPECT_EQ(make_picture(spec, 5), make_picture(spec, 5));
  EXPECT_NE(make_picture(spec, 5), make_picture(spec, 6));
}

Workload workload(const char* name, double tokens_per_word = 1.0) {
  return Workload({.mix = workload_mix(name, std::nullopt, std::nullopt, std::nullopt),
                   .picture = {.width = 16, .height = 16},
                   .seed = 11,
                   .tokens_per_word = tokens_per_word});
}

size_t words(const std::string& text) {
  return static_cast<size_t>(std::count(text.begin(), text.end(), ' ')) + 1;
}

TEST(Workload, w1_shows_a_new_picture_with_each_question) {
  Workload w1 = workload("w1");
  std::set<std::string> pictures;
  std::set<std::string> questions;
  for (uint64_t i = 0; i < 20; ++i) {
    const auto session = w1.session(i);
    pictures.insert(*session->image);
    questions.insert(session->questions.at(0));
    EXPECT_EQ(session->output_tokens, 128);
    EXPECT_EQ(words(session->questions[0]), 50U);
  }
  EXPECT_EQ(pictures.size(), 20U);
  EXPECT_EQ(questions.size(), 20U);
}

TEST(Workload, w2_is_text_only) {
  const auto session = workload("w2").session(3);
  EXPECT_EQ(session->image, nullptr);
  EXPECT_EQ(words(session->questions.at(0)), 512U);
  EXPECT_EQ(session->output_tokens, 256);
}

TEST(Workload, w3_asks_thirty_two_questions_about_each_picture) {
  Workload w3 = workload("w3");
  const auto first = w3.session(0);
  EXPECT_EQ(w3.session(31)->image, first->image);
  EXPECT_NE(*w3.session(32)->image, *first->image);
  EXPECT_NE(w3.session(31)->questions, first->questions);
}

TEST(Workload, w4_has_six_turns_about_one_picture) {
  const auto session = workload("w4").session(0);
  EXPECT_EQ(session->questions.size(), 6U);
  EXPECT_NE(session->image, nullptr);
  EXPECT_EQ(session->output_tokens, 120);
}

TEST(Workload, w5_mixes_half_w1_three_tenths_w2_two_tenths_w3) {
  Workload w5 = workload("w5");
  int text = 0;
  int many = 0;
  std::set<std::string> shared;
  for (uint64_t i = 0; i < 2000; ++i) {
    const auto session = w5.session(i);
    text += session->image == nullptr ? 1 : 0;
    if (session->image != nullptr && session->output_tokens == 64) {
      ++many;
      shared.insert(*session->image);
    }
  }
  EXPECT_NEAR(text, 600, 80);
  EXPECT_NEAR(many, 400, 80);
  // About 32 questions each.
  EXPECT_NEAR(static_cast<double>(shared.size()), 13, 1);
}

TEST(Workload, w5_draws_a_shared_picture_once) {
  Workload w5 = workload("w5");
  std::set<std::shared_ptr<const std::string>> shared;
  for (uint64_t i = 0; i < 160; ++i) {  // 32 questions at two tenths
    const auto session = w5.session(i);
    if (session->image != nullptr && session->output_tokens == 64) shared.insert(session->image);
  }
  EXPECT_EQ(shared.size(), 1U);
}

TEST(Workload, a_session_depends_on_seed_and_number_alone) {
  Workload one = workload("w5");
  Workload other = workload("w5");
  for (uint64_t i = 40; i > 0; --i) static_cast<void>(other.session(i));
  for (uint64_t i = 0; i < 40; ++i) {
    const auto a = one.session(i);
    const auto b = other.session(i);
    EXPECT_EQ(a->questions, b->questions);
    ASSERT_EQ(a->image == nullptr, b->image == nullptr);
    if (a->image != nullptr) {
      EXPECT_EQ(*a->image, *b->image);
    }
  }
}

TEST(Workload, token_counts_become_words_by_the_models_own_measure) {
  EXPECT_EQ(words(workload("w1", 2.5).session(0)->questions.at(0)), 20U);
}

class CustomPromptsTest : public ::testing::Test {
 protected:
  CustomPromptsTest() { folder_.write("a.jpg", "picture a"); }

  std::string write(const std::string& text) { return folder_.write("prompts.jsonl", text); }

  TemporaryDirectory folder_;
};

TEST_F(CustomPromptsTest, are_asked_round_and_round) {
  const auto prompts = read_custom_prompts(
      write("{\"prompt\": \"one\", \"image\": \"a.jpg\"}\n\n"
            "{\"prompt\": \"two\", \"image_files\": [\"a.jpg\"]}\n{\"prompt\": \"three\"}\n"));
  ASSERT_TRUE(prompts.ok());
  Workload custom({.mix = workload_mix("w1", std::nullopt, 9, std::nullopt), .custom = *prompts});
  EXPECT_EQ(custom.session(0)->questions.at(0), "one");
  EXPECT_EQ(*custom.session(1)->image, "picture a");
  EXPECT_EQ(custom.session(2)->image, nullptr);
  EXPECT_EQ(custom.session(3)->questions.at(0), "one");
  EXPECT_EQ(custom.session(0)->output_tokens, 9);
}

TEST_F(CustomPromptsTest, errors_name_the_line) {
  for (const char* wrong :
       {"{\"prompt\": \"x\"}\nnot json", "{\"prompt\": \"x\"}\n{\"image\": \"a.jpg\"}",
        "{\"prompt\": \"x\"}\n{\"prompt\": \"y\", \"image\": 5}"}) {
    const auto prompts = read_custom_prompts(write(wrong));
    ASSERT_FALSE(prompts.ok());
    EXPECT_NE(prompts.error().message.find("line 2"), std::string::npos) << wrong;
  }
  EXPECT_FALSE(read_custom_prompts(write("\n")).ok());
}

TEST_F(CustomPromptsTest, a_missing_picture_is_an_error_of_its_session) {
  const auto prompts =
      read_custom_prompts(write("{\"prompt\": \"one\", \"image\": \"gone.jpg\"}\n"));
  Workload custom({.mix = workload_mix("w1", 1, 1, 1), .custom = *prompts});
  EXPECT_EQ(custom.session(0).error().reason, "FILE_READ");
}

}  // namespace
}  // namespace cogserve::client
