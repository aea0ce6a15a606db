#include "server/text/text_stream.hpp"

#include <gtest/gtest.h>

#include <random>
#include <tuple>

#include "tests/server/tokenizer_files.hpp"

namespace cogserve::text {
namespace {

// One token per byte, so that a text may be cut anywhere.
std::vector<int32_t> byte_tokens(std::string_view bytes) {
  std::vector<int32_t> ids;
  for (const char byte : bytes) {
    ids.push_back(small_tokenizer().token_to_id(std::string_view(&byte, 1)).value());
  }
  return ids;
}

std::string stream_all(const std::vector<int32_t>& ids, TextStreamOptions options = {}) {
  TextStream stream(&small_tokenizer(), std::move(options));
  std::string text;
  for (const int32_t id : ids) {
    const std::string shown = stream.push(id);
    EXPECT_EQ(find_invalid_utf8(shown), std::string_view::npos);
    text += shown;
  }
  return text + stream.finish();
}

TEST(TextStream, shows_each_character_as_soon_as_it_is_whole) {
  TextStream stream(&small_tokenizer());
  std::vector<std::string> shown;
  for (const int32_t id : byte_tokens("a中😀")) shown.push_back(stream.push(id));
  EXPECT_EQ(shown, (std::vector<std::string>{"a", "", "", "中", "", "", "", "😀"}));
  EXPECT_EQ(stream.finish(), "");
}

// Expected texts are what Python's bytes.decode(errors="replace") gives.
TEST(TextStream, replaces_broken_characters_as_python_does) {
  const std::vector<std::pair<std::string, std::string>> cases{
      {"\x80", "\uFFFD"},
      {"a\xE4\xB8", "a\uFFFD"},
      {"a\xE4\xB8z", "a\uFFFDz"},
      {"\xC0\x80", "\uFFFD\uFFFD"},
      {"\xE0\x80\x80", "\uFFFD\uFFFD\uFFFD"},
      {"\xED\xA0\x80", "\uFFFD\uFFFD\uFFFD"},
      {"\xF0\x9F\x98", "\uFFFD"},
      {"\xF0\x9F\xF0\x9F\x98\x80", "\uFFFD😀"},
      {"\xF4\x90\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"},
      {"\xF8\x88\x80\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD"},
      {"\xE4\xE4\xB8\xAD", "\uFFFD中"},
  };
  for (const auto& [bytes, text] : cases) {
    EXPECT_EQ(stream_all(byte_tokens(bytes)), text);
    EXPECT_EQ(small_tokenizer().decode(byte_tokens(bytes)), text);
  }
}

TEST(TextStream, leaves_out_special_and_unknown_tokens_even_inside_a_character) {
  std::vector<int32_t> ids = byte_tokens("中");
  ids.insert(ids.begin() + 1, small_tokenizer().token_to_id("<|eot_id|>").value());
  ids.insert(ids.begin() + 1, {-1, 1'000'000});
  EXPECT_EQ(stream_all(ids), "中");
}

TEST(TextStream, holds_back_what_may_become_a_stop_string) {
  TextStream stream(&small_tokenizer(), {.stops = {"STOP"}});
  std::string text;
  std::vector<std::string> shown;
  for (const int32_t id : byte_tokens("xSTx")) shown.push_back(stream.push(id));
  EXPECT_EQ(shown, (std::vector<std::string>{"x", "", "", "STx"}));
  for (const int32_t id : byte_tokens("STO")) EXPECT_EQ(stream.push(id), "");
  EXPECT_FALSE(stream.stopped());
  EXPECT_EQ(stream.finish(), "STO");
}

TEST(TextStream, ends_before_the_stop_string_and_says_which_it_was) {
  TextStream stream(&small_tokenizer(), {.stops = {"three", "two"}});
  std::string text;
  for (const int32_t id : byte_tokens("one two three")) text += stream.push(id);
  EXPECT_EQ(text, "one ");
  EXPECT_TRUE(stream.stopped());
  EXPECT_EQ(stream.stop_index(), 1u);
  EXPECT_EQ(stream.push(byte_tokens("x")[0]), "");
  EXPECT_EQ(stream.finish(), "");
}

TEST(TextStream, takes_the_stop_string_that_ends_first_and_of_those_the_longest) {
  EXPECT_EQ(stream_all(byte_tokens("xabcd"), {.stops = {"abcd", "bc"}}), "xa");
  EXPECT_EQ(stream_all(byte_tokens("xabcd"), {.stops = {"bc", "abc"}}), "x");
  EXPECT_EQ(stream_all(byte_tokens("aabaabaac"), {.stops = {"aabaac"}}), "aab");
}

TEST(TextStream, finds_a_stop_string_inside_one_token_and_across_tokens) {
  const std::vector<int32_t> ids = small_tokenizer().encode("There are three triangles").value();
  EXPECT_LT(ids.size(), 20u);
  EXPECT_EQ(stream_all(ids, {.stops = {"re three tri"}}), "There a");
  EXPECT_EQ(stream_all(ids, {.stops = {"hree"}}), "There are t");
}

TEST(TextStream, lets_stop_strings_pass_until_min_tokens) {
  EXPECT_EQ(stream_all(byte_tokens("a.b.c."), {.stops = {"."}, .min_tokens = 2}), "a.b");
  EXPECT_EQ(stream_all(byte_tokens("a.b.c."), {.stops = {"."}, .min_tokens = 1}), "a");
  EXPECT_EQ(stream_all(byte_tokens("ababab"), {.stops = {"abab"}, .min_tokens = 4}), "ab");
}

TEST(TextStream, drops_one_leading_space_when_asked) {
  EXPECT_EQ(stream_all(byte_tokens("  a b"), {.strip_leading_space = true}), " a b");
  EXPECT_EQ(stream_all(byte_tokens(" a")), " a");
  EXPECT_EQ(stream_all(byte_tokens("a b"), {.strip_leading_space = true}), "a b");
  EXPECT_EQ(stream_all(byte_tokens("\xE4 a"), {.strip_leading_space = true}), "\uFFFD a");
  EXPECT_EQ(stream_all(byte_tokens(" a b"), {.stops = {" "}, .strip_leading_space = true}), "a");
}

// The definition, on the whole text at once: cut at the first end of any stop string.
std::string naive(const std::string& text, const std::vector<std::string>& stops) {
  for (size_t end = 1; end <= text.size(); ++end) {
    size_t longest = 0;
    for (const std::string& stop : stops) {
      if (text.substr(0, end).ends_with(stop)) longest = std::max(longest, stop.size());
    }
    if (longest > 0) return text.substr(0, end - longest);
  }
  return text;
}

TEST(TextStream, equals_the_whole_text_cut_at_the_first_stop_over_random_streams) {
  const std::vector<std::string> parts{"a",    "b",    "ab",   " ",        "中",
                                       "\xE4", "\xB8", "\xAD", "\xF0\x9F", "\x98\x80"};
  std::mt19937 random(11);
  const auto draw = [&](unsigned longest) {
    std::string bytes;
    for (unsigned n = 1 + random() % longest; n > 0; --n) bytes += parts[random() % parts.size()];
    return bytes;
  };
  int stopped = 0;
  for (int round = 0; round < 20'000; ++round) {
    const std::vector<int32_t> ids = byte_tokens(draw(24));
    std::vector<std::string> stops;
    for (unsigned n = random() % 4; n > 0; --n) {
      stops.push_back(small_tokenizer().decode(byte_tokens(draw(4))));
    }
    const std::string whole = small_tokenizer().decode(ids);
    const std::string expected = naive(whole, stops);
    stopped += expected != whole;
    ASSERT_EQ(stream_all(ids, {.stops = stops}), expected) << ::testing::PrintToString(whole);
  }
  EXPECT_GT(stopped, 2'000);  // the oracle saw both outcomes
  EXPECT_LT(stopped, 18'000);
}

}  // namespace
}  // namespace cogserve::text
