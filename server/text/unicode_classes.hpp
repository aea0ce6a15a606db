// The Unicode classes that pretokenizer patterns speak of: \p{L}, \p{N} and \s.
//
// The tables are those of the Hugging Face tokenizers library (see make_unicode_classes.py), not of
// the regex library at hand: a code point that one Unicode version calls a letter and another calls
// unassigned would otherwise be split differently. Constant data, readable from any thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace cogserve::text {

struct CodeRange {
  char32_t first;
  char32_t last;  // inclusive
};

// Sorted, disjoint, without surrogates.
std::span<const CodeRange> letter_ranges();  // \p{L}
std::span<const CodeRange> number_ranges();  // \p{N}
std::span<const CodeRange> space_ranges();   // \s

enum class CharClass : uint8_t {
  kOther,
  kLetter,
  kNumber,
  kSpace,    // \s without the two below
  kNewline,  // \r and \n
};

// Class of a code point in two array reads.
class UnicodeClasses {
 public:
  static const UnicodeClasses& get();

  // `code` at most U+10FFFF.
  CharClass of(char32_t code) const {
    return classes_[pages_[code >> kPageBits] * kPageSize + (code & (kPageSize - 1))];
  }

 private:
  UnicodeClasses();

  static constexpr int kPageBits = 8;
  static constexpr size_t kPageSize = size_t{1} << kPageBits;
  static constexpr size_t kPages = 0x110000 >> kPageBits;

  std::array<uint16_t, kPages> pages_{};  // index of the page's classes; equal pages share one
  std::vector<CharClass> classes_;
};

}  // namespace cogserve::text
