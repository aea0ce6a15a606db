#include "server/text/utf8.hpp"

#include <cstdint>
#include <cstring>

namespace cogserve::text {
namespace {

// What a lead byte asks for. The second byte's range excludes overlong forms, surrogates and codes
// above U+10FFFF; all later bytes are 80..BF.
struct Lead {
  size_t length;  // 0: never starts a character
  uint8_t second_min;
  uint8_t second_max;
};

Lead lead_of(uint8_t byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

constexpr std::string_view kReplacement = "\uFFFD";

}  // namespace

Utf8Char decode_utf8(std::string_view text) {
  const auto first = static_cast<uint8_t>(text[0]);
  const Lead lead = lead_of(first);
  if (lead.length == 1) return {first, 1, Utf8State::kValid};
  if (lead.length == 0) return {0, 1, Utf8State::kInvalid};
  char32_t code = first & (0x7Fu >> lead.length);
  for (size_t i = 1; i < lead.length; ++i) {
    if (i == text.size()) return {0, i, Utf8State::kIncomplete};
    const auto byte = static_cast<uint8_t>(text[i]);
    const uint8_t min = i == 1 ? lead.second_min : 0x80;
    const uint8_t max = i == 1 ? lead.second_max : 0xBF;
    if (byte < min || byte > max) return {0, i, Utf8State::kInvalid};
    code = (code << 6) | (byte & 0x3Fu);
  }
  return {code, lead.length, Utf8State::kValid};
}

size_t find_invalid_utf8(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    uint64_t eight;
    if (text.size() - at >= sizeof eight) {
      std::memcpy(&eight, text.data() + at, sizeof eight);
      if ((eight & 0x8080808080808080u) == 0) {  // eight ASCII bytes at once
        at += sizeof eight;
        continue;
      }
    }
    const Utf8Char next = decode_utf8(text.substr(at));
    if (next.state != Utf8State::kValid) return at;
    at += next.length;
  }
  return std::string_view::npos;
}

void Utf8Repairer::push(std::string_view bytes, std::string* text) {
  tail_ += bytes;
  std::string_view rest = tail_;
  while (!rest.empty()) {
    const Utf8Char next = decode_utf8(rest);
    if (next.state == Utf8State::kIncomplete) break;
    *text += next.state == Utf8State::kValid ? rest.substr(0, next.length) : kReplacement;
    rest.remove_prefix(next.length);
  }
  tail_.erase(0, tail_.size() - rest.size());
}

void Utf8Repairer::finish(std::string* text) {
  if (!tail_.empty()) *text += kReplacement;
  tail_.clear();
}

}  // namespace cogserve::text
