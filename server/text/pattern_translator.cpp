#include "server/text/pattern_translator.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "server/text/unicode_classes.hpp"

namespace cogserve::text {
namespace {

constexpr char32_t kBeforeSurrogates = 0xD7FF;
constexpr char32_t kBehindSurrogates = 0xE000;
constexpr char32_t kLastCode = 0x10FFFF;

void append_range(char32_t first, char32_t last, std::string* out) {
  if (first > last) return;
  absl::StrAppend(out, "\\x{", absl::Hex(static_cast<uint32_t>(first)), "}-\\x{",
                  absl::Hex(static_cast<uint32_t>(last)), "}");
}

void append_ranges(std::span<const CodeRange> ranges, std::string* out) {
  for (const CodeRange& range : ranges) append_range(range.first, range.last, out);
}

// All code points outside `ranges`, surrogates apart: PCRE2 refuses them in a pattern.
void append_complement(std::span<const CodeRange> ranges, std::string* out) {
  char32_t next = 0;
  const auto append_gap = [&](char32_t last) {
    if (next <= kBeforeSurrogates && last >= kBehindSurrogates) {
      append_range(next, kBeforeSurrogates, out);
      next = kBehindSurrogates;
    }
    if (next <= last) append_range(next, last, out);
  };
  for (const CodeRange& range : ranges) {
    if (range.first > next) append_gap(range.first - 1);
    next = range.last + 1;
  }
  append_gap(kLastCode);
}

class Translator {
 public:
  explicit Translator(std::string_view pattern) : pattern_(pattern) {}

  absl::StatusOr<std::string> translate() {
    while (at_ < pattern_.size() && status_.ok()) {
      if (in_set_) {
        translate_in_set();
      } else {
        translate_outside();
      }
    }
    if (!status_.ok()) return status_;
    return std::move(out_);
  }

 private:
  bool next_is(std::string_view text) const { return pattern_.substr(at_, text.size()) == text; }

  void keep(size_t bytes) {
    out_ += pattern_.substr(at_, bytes);
    at_ += bytes;
  }

  void refuse(std::string_view what) {
    status_ = absl::InvalidArgumentError(
        absl::StrCat("pattern: ", std::string(what), " at byte ", at_, " is not supported"));
  }

  void translate_outside() {
    switch (pattern_[at_]) {
      case '\\':
        return translate_escape();
      case '[':
        in_set_ = true;
        keep(next_is("[^") ? 2 : 1);
        if (next_is("]")) refuse("an empty set");
        return;
      case '(':
        return translate_group();
      case '{':
        return translate_counts();
      case '^':
      case '$':
      case '.':
        return refuse(pattern_.substr(at_, 1));
      default:
        return keep(1);
    }
  }

  void translate_in_set() {
    if (next_is("\\")) return translate_escape();
    if (next_is("[") || next_is("&&")) return refuse("a set inside a set");
    if (next_is("]")) in_set_ = false;
    keep(1);
  }

  void translate_escape() {
    struct Class {
      std::string_view name;
      std::span<const CodeRange> ranges;
      bool complement;
    };
    static const std::array<Class, 6> classes{{{"\\p{L}", letter_ranges(), false},
                                               {"\\P{L}", letter_ranges(), true},
                                               {"\\p{N}", number_ranges(), false},
                                               {"\\P{N}", number_ranges(), true},
                                               {"\\s", space_ranges(), false},
                                               {"\\S", space_ranges(), true}}};
    for (const Class& known : classes) {
      if (!next_is(known.name)) continue;
      if (!in_set_) out_ += '[';
      known.complement ? append_complement(known.ranges, &out_)
                       : append_ranges(known.ranges, &out_);
      if (!in_set_) out_ += ']';
      at_ += known.name.size();
      return;
    }
    const std::string_view escape = pattern_.substr(at_, 2);
    const bool same_in_both =
        escape == "\\r" || escape == "\\n" || escape == "\\t" ||
        (escape.size() == 2 && absl::ascii_ispunct(static_cast<unsigned char>(escape[1])));
    return same_in_both ? keep(2) : refuse(escape);
  }

  void translate_group() {
    if (!next_is("(?")) return keep(1);
    for (const std::string_view group : {"(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"}) {
      if (next_is(group)) return keep(group.size());
    }
    refuse(pattern_.substr(at_, 3));
  }

  // {n}, {n,} and {n,m}. Oniguruma reads {,n}, and a ? or + behind the braces, in its own way.
  void translate_counts() {
    constexpr std::string_view kDigits = "0123456789";
    size_t end = std::min(pattern_.find_first_not_of(kDigits, at_ + 1), pattern_.size());
    const bool counted = end > at_ + 1;
    if (pattern_.substr(end, 1) == ",") {
      end = std::min(pattern_.find_first_not_of(kDigits, end + 1), pattern_.size());
    }
    if (!counted || pattern_.substr(end, 1) != "}") return refuse("{");
    keep(end + 1 - at_);
    if (next_is("?") || next_is("+")) refuse("a suffix of {n,m}");
  }

  std::string_view pattern_;
  size_t at_ = 0;
  bool in_set_ = false;
  std::string out_;
  absl::Status status_;
};

}  // namespace

absl::StatusOr<std::string> translate_pattern(std::string_view pattern) {
  return Translator(pattern).translate();
}

}  // namespace cogserve::text
