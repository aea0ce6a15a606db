#include "server/text/pretokenizer.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>

#include "server/text/llama3_splitter.hpp"
#include "server/text/unicode_classes.hpp"
#include "server/text/utf8.hpp"

namespace cogserve::text {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string encode_utf8(char32_t code) {
  const auto tail = [code](int shift) {
    return static_cast<char>(0x80 | ((code >> shift) & 0x3F));
  };
  if (code < 0x80) return {static_cast<char>(code)};
  if (code < 0x800) return {static_cast<char>(0xC0 | (code >> 6)), tail(0)};
  if (code < 0x10000) return {static_cast<char>(0xE0 | (code >> 12)), tail(6), tail(0)};
  return {static_cast<char>(0xF0 | (code >> 18)), tail(12), tail(6), tail(0)};
}

Pretokenizer make(std::string_view pattern,
                  Pretokenizer::Engine engine = Pretokenizer::Engine::kAuto) {
  return Pretokenizer::create(pattern, engine).value();
}

const Pretokenizer& by_regex() {
  static const Pretokenizer pretokenizer = make(kLlama3Pattern, Pretokenizer::Engine::kPcre2);
  return pretokenizer;
}

TEST(Pretokenizer, splits_words_numbers_signs_and_spaces_as_llama_3_does) {
  EXPECT_THAT(split_llama3("Hello world"), ElementsAre("Hello", " world"));
  EXPECT_THAT(split_llama3("don't I'LL x'ſ"), ElementsAre("don", "'t", " I", "'LL", " x", "'ſ"));
  EXPECT_THAT(split_llama3("12345"), ElementsAre("123", "45"));
  EXPECT_THAT(split_llama3("a   b"), ElementsAre("a", "  ", " b"));
  EXPECT_THAT(split_llama3("a   "), ElementsAre("a", "   "));
  EXPECT_THAT(split_llama3("a \n\n  b"), ElementsAre("a", " \n\n", " ", " b"));
  EXPECT_THAT(split_llama3("x ==\n\ny"), ElementsAre("x", " ==\n\n", "y"));
  EXPECT_THAT(split_llama3("\t1 图片"), ElementsAre("\t", "1", " 图片"));
  EXPECT_THAT(split_llama3("a\u3000\u3000b"), ElementsAre("a", "\u3000", "\u3000b"));
  EXPECT_TRUE(split_llama3("").empty());
}

// Each side of each border between classes, and all of the first pages.
std::vector<char32_t> telling_code_points() {
  std::vector<char32_t> codes;
  for (char32_t code = 0; code < 0x600; ++code) codes.push_back(code);
  for (const auto ranges : {letter_ranges(), number_ranges(), space_ranges()}) {
    for (const CodeRange& range : ranges) {
      if (range.first == 0) continue;
      for (const uint32_t code :
           {range.first - 1u, range.first + 0u, range.last + 0u, range.last + 1u}) {
        if (code < 0xD800 || code >= 0xE000) codes.push_back(code);
      }
    }
  }
  return codes;
}

TEST(Pretokenizer, splits_by_hand_as_by_regex_at_every_border_of_a_class) {
  const std::vector<char32_t> codes = telling_code_points();
  ASSERT_GT(codes.size(), 4'000u);
  std::string text;
  for (const char32_t code : codes) {
    const std::string one = encode_utf8(code);
    text += "a" + one + "b 1" + one + "1 !" + one + "! '" + one + "s \n" + one + "\n";
    text += " " + one + one + "  " + one;
  }
  const std::vector<std::string_view> expected = by_regex().split(text).value();
  EXPECT_EQ(split_llama3(text), expected);
}

TEST(Pretokenizer, splits_by_hand_as_by_regex_on_random_texts) {
  const std::vector<std::string> parts{
      "a",      "S",  "'",      "'s",     "'RE",    "ſ",  "l",
      "v",      "e",  "1",      "½",      " ",      "  ", "\n",
      "\r",     "\t", "\u00A0", "\u3000", "\u0085", "中", "é",
      "\u0301", "😀",  "!",      "<|",     "-",      "_",  std::string(1, '\0')};
  std::mt19937 random(7);
  for (int round = 0; round < 20'000; ++round) {
    std::string text;
    for (unsigned n = random() % 24; n > 0; --n) text += parts[random() % parts.size()];
    ASSERT_EQ(split_llama3(text), by_regex().split(text).value()) << ::testing::PrintToString(text);
  }
}

TEST(Pretokenizer, gives_stretches_between_matches_as_pieces_of_their_own) {
  EXPECT_THAT(make("\\p{N}+").split("ab12cd").value(), ElementsAre("ab", "12", "cd"));
  EXPECT_THAT(make("\\p{N}+").split("abcd").value(), ElementsAre("abcd"));
  EXPECT_THAT(make("[^\\S]").split("a b").value(), ElementsAre("a", " ", "b"));
  EXPECT_THAT(make("\\P{L}+|x").split("xx1 中").value(), ElementsAre("x", "x", "1 ", "中"));
}

TEST(Pretokenizer, refuses_patterns_that_the_two_regex_libraries_read_differently) {
  const std::vector<std::pair<std::string, std::string>> bad{
      {"", "empty string"},       {"\\s*", "empty string"},
      {"(?=a)", "empty string"},  {"a(", "missing"},
      {"\\h+", "\\h at byte 0"},  {"a\\p{Lu}", "\\p at byte 1"},
      {"[a[b]]", "a set inside"}, {"[a-z&&b]", "a set inside"},
      {"[]a]", "an empty set"},   {"^a", "^ at byte 0"},
      {"a$", "$ at byte 1"},      {"a.", ". at byte 1"},
      {"(?<n>a)", "(?<"},         {"(?m:a)", "(?m"},
      {"a{,2}", "{ at byte 1"},   {"a{1,2}+", "a suffix"},
      {"a{2}?", "a suffix"},      {"a{x}", "{ at byte 1"},
      {"a\\", "\\ at byte 1"},    {"[a", "missing terminating ]"}};
  for (const auto& [pattern, named] : bad) {
    const absl::Status status = Pretokenizer::create(pattern).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << pattern;
    EXPECT_THAT(std::string(status.message()), HasSubstr(named)) << pattern;
  }
}

TEST(Pretokenizer, gives_up_on_a_pattern_that_backtracks_without_bound) {
  const absl::Status status = make("(?:a+)+b").split(std::string(64, 'a') + " b").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
}

TEST(Pretokenizer, splits_a_quarter_of_a_million_bytes_of_one_kind_without_recursion) {
  for (const std::string unit : {"a", " ", "\n", " \n", "\n ", "中", "😀", "a ", "'s", "1"}) {
    std::string text;
    while (text.size() < 256 * 1024) text += unit;
    const std::vector<std::string_view> expected = by_regex().split(text).value();
    EXPECT_EQ(split_llama3(text), expected) << ::testing::PrintToString(unit);
  }
}

TEST(UnicodeClasses, know_the_borders_that_regex_libraries_disagree_on) {
  const UnicodeClasses& classes = UnicodeClasses::get();
  EXPECT_EQ(classes.of(0x85), CharClass::kSpace);    // next line
  EXPECT_EQ(classes.of(0x1C), CharClass::kOther);    // file separator
  EXPECT_EQ(classes.of(0x180E), CharClass::kOther);  // Mongolian vowel separator
  EXPECT_EQ(classes.of(0x200B), CharClass::kOther);  // zero width space
  EXPECT_EQ(classes.of(0x2003), CharClass::kSpace);  // em space
  EXPECT_EQ(classes.of('\r'), CharClass::kNewline);
  EXPECT_EQ(classes.of(0x2028), CharClass::kSpace);    // line separator: no \r or \n
  EXPECT_EQ(classes.of(0x2EBF0), CharClass::kLetter);  // CJK extension I, Unicode 15.1
  EXPECT_EQ(classes.of(0x216B), CharClass::kNumber);   // Roman numeral twelve
  EXPECT_EQ(classes.of(0x10FFFF), CharClass::kOther);
}

TEST(UnicodeClasses, agree_with_their_ranges_at_every_code_point) {
  std::vector<CharClass> expected(0x110000, CharClass::kOther);
  const auto fill = [&expected](std::span<const CodeRange> ranges, CharClass kind) {
    for (const CodeRange& range : ranges) {
      for (char32_t code = range.first; code <= range.last; ++code) {
        EXPECT_EQ(expected[code], CharClass::kOther)
            << static_cast<uint32_t>(code);  // the classes are disjoint
        expected[code] = kind;
      }
    }
  };
  fill(letter_ranges(), CharClass::kLetter);
  fill(number_ranges(), CharClass::kNumber);
  fill(space_ranges(), CharClass::kSpace);
  expected['\r'] = expected['\n'] = CharClass::kNewline;
  size_t different = 0;
  for (char32_t code = 0; code < 0x110000; ++code) {
    different += UnicodeClasses::get().of(code) != expected[code];
  }
  EXPECT_EQ(different, 0u);
}

TEST(Utf8, finds_the_first_byte_that_belongs_to_no_character) {
  EXPECT_EQ(find_invalid_utf8("plain ASCII, é, 中, 😀, \U0010FFFF"), std::string_view::npos);
  const std::vector<std::pair<std::string, size_t>> bad{{"\x80", 0},
                                                        {"abcdefgh\xC1\xBF", 8},
                                                        {"\xE0\x9F\xBF", 0},
                                                        {"é\xED\xBF\xBF", 2},
                                                        {"\xF0\x8F\xBF\xBF", 0},
                                                        {"\xF5\x80\x80\x80", 0},
                                                        {"abcdefghijk\xE4\xB8", 11}};
  for (const auto& [text, at] : bad) EXPECT_EQ(find_invalid_utf8(text), at);
}

}  // namespace
}  // namespace cogserve::text
