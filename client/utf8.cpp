#include "client/utf8.hpp"

#include <cstddef>
#include <cstdint>

namespace cogserve::client {
namespace {

// What a first byte asks for. The second byte's range leaves out overlong forms, surrogates and
// what is above U+10FFFF; all later bytes are 80..BF.
struct Lead {
  size_t length;  // 0: begins no character
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

// Bytes of the character that `text`, not empty, begins with; 0 where it begins with none.
size_t character_length(std::string_view text) {
  const Lead lead = lead_of(static_cast<uint8_t>(text[0]));
  if (lead.length == 0 || lead.length > text.size()) return 0;
  for (size_t i = 1; i < lead.length; ++i) {
    const auto byte = static_cast<uint8_t>(text[i]);
    const uint8_t least = i == 1 ? lead.second_min : 0x80;
    const uint8_t most = i == 1 ? lead.second_max : 0xBF;
    if (byte < least || byte > most) return 0;
  }
  return lead.length;
}

}  // namespace

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const size_t length = character_length(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

}  // namespace cogserve::client
