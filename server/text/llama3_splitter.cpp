#include "server/text/llama3_splitter.hpp"

#include <cstddef>

#include "server/text/unicode_classes.hpp"
#include "server/text/utf8.hpp"

namespace cogserve::text {
namespace {

constexpr char32_t kLongS = 0x17F;  // the one character beyond ASCII that folds to a letter of "'s"

class Splitter {
 public:
  explicit Splitter(std::string_view text) : text_(text) {}

  std::vector<std::string_view> split() {
    std::vector<std::string_view> pieces;
    pieces.reserve(text_.size() / 4);
    for (size_t begin = 0; begin < text_.size();) {
      const size_t end = match(begin);
      pieces.push_back(text_.substr(begin, end - begin));
      begin = end;
    }
    return pieces;
  }

 private:
  struct Char {
    char32_t code;
    CharClass kind;
    size_t end;  // offset behind it
  };

  // The character at `at`, which must lie inside the text.
  Char read(size_t at) const {
    const auto byte = static_cast<unsigned char>(text_[at]);
    if (byte < 0x80) return {byte, classes_.of(byte), at + 1};
    const Utf8Char decoded = decode_utf8(text_.substr(at));
    return {decoded.code, classes_.of(decoded.code), at + decoded.length};
  }

  // Whether there is a character of class `kind` at `at`.
  bool is(size_t at, CharClass kind) const { return at < text_.size() && read(at).kind == kind; }

  size_t skip(size_t at, CharClass kind) const {
    while (at < text_.size()) {
      const Char next = read(at);
      if (next.kind != kind) break;
      at = next.end;
    }
    return at;
  }

  // End of the match at `begin`; the alternatives in the pattern's order.
  size_t match(size_t begin) const {
    const Char first = read(begin);
    if (first.code == '\'') {
      if (const size_t end = match_contraction(first.end); end != 0) return end;
    }
    switch (first.kind) {
      case CharClass::kLetter:
        return skip(first.end, CharClass::kLetter);
      case CharClass::kNumber:
        return match_number(first.end);
      case CharClass::kNewline:
        return match_space(begin);
      case CharClass::kSpace:
        if (is(first.end, CharClass::kLetter)) return skip(first.end, CharClass::kLetter);
        if (first.code == ' ' && is(first.end, CharClass::kOther)) return match_other(first.end);
        return match_space(begin);
      case CharClass::kOther:
        break;
    }
    if (is(first.end, CharClass::kLetter)) return skip(first.end, CharClass::kLetter);
    return match_other(first.end);
  }

  // (?i:'s|'t|'re|'ve|'m|'ll|'d) behind its apostrophe; 0 when there is none.
  size_t match_contraction(size_t at) const {
    if (at == text_.size()) return 0;
    const Char first = read(at);
    if (first.code == kLongS) return first.end;
    const char second = first.end < text_.size() ? lower(text_[first.end]) : '\0';
    switch (lower(text_[at])) {
      case 's':
      case 't':
      case 'm':
      case 'd':
        return first.end;
      case 'r':
      case 'v':
        return second == 'e' ? first.end + 1 : 0;
      case 'l':
        return second == 'l' ? first.end + 1 : 0;
      default:
        return 0;
    }
  }

  static char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

  // \p{N}{1,3} behind its first number.
  size_t match_number(size_t at) const {
    for (int more = 0; more < 2 && is(at, CharClass::kNumber); ++more) at = read(at).end;
    return at;
  }

  //  ?[^\s\p{L}\p{N}]+[\r\n]* behind its first character.
  size_t match_other(size_t at) const {
    return skip(skip(at, CharClass::kOther), CharClass::kNewline);
  }

  // \s*[\r\n]+|\s+(?!\S)|\s+ : a run of spaces ends behind its last newline; without one, before
  // its last character, which is left to the word that follows; a run of one is taken whole.
  size_t match_space(size_t begin) const {
    size_t at = begin;
    size_t last = begin;  // where the run's last character begins
    size_t behind_newline = 0;
    while (at < text_.size()) {
      const Char next = read(at);
      if (next.kind != CharClass::kSpace && next.kind != CharClass::kNewline) break;
      last = at;
      at = next.end;
      if (next.kind == CharClass::kNewline) behind_newline = at;
    }
    if (behind_newline != 0) return behind_newline;
    return at == text_.size() || last == begin ? at : last;
  }

  std::string_view text_;
  const UnicodeClasses& classes_ = UnicodeClasses::get();
};

}  // namespace

std::vector<std::string_view> split_llama3(std::string_view text) { return Splitter(text).split(); }

}  // namespace cogserve::text
