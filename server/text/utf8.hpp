// UTF-8 decoding, strict: no overlong forms, no surrogates, nothing above U+10FFFF.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace cogserve::text {

enum class Utf8State {
  kValid,
  kInvalid,     // no continuation can make these bytes a character
  kIncomplete,  // the text ends inside a character that more bytes may complete
};

struct Utf8Char {
  char32_t code;  // meaningful when kValid
  // Bytes of the character when kValid. Otherwise of the maximal subpart of an ill-formed sequence:
  // how many bytes one U+FFFD stands for (Unicode 3.9; what Python's errors="replace" does).
  size_t length;
  Utf8State state;
};

// Decodes the character at the start of `text`, which must not be empty.
Utf8Char decode_utf8(std::string_view text);

// The offset of the first byte that is not part of a valid character; npos when all are valid.
size_t find_invalid_utf8(std::string_view text);

// Turns a stream of bytes, cut anywhere, into valid UTF-8: an unfinished character waits for its
// rest, a broken one becomes U+FFFD. Over any cutting the text is that of Python's
// bytes.decode(errors="replace") on the whole.
class Utf8Repairer {
 public:
  // Appends to `text` the characters that `bytes` complete.
  void push(std::string_view bytes, std::string* text);
  // Appends U+FFFD for a character that never got its rest.
  void finish(std::string* text);

 private:
  std::string tail_;  // the bytes of an unfinished character, at most three
};

}  // namespace cogserve::text
