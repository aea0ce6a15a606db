#include "server/text/byte_alphabet.hpp"

#include <array>
#include <cstdint>

#include "server/text/utf8.hpp"

namespace cogserve::text {
namespace {

constexpr int kSymbolLimit = 0x144;  // behind the last symbol
constexpr int16_t kNoByte = -1;

// Printable Latin-1 characters stand for themselves; the other 68 bytes, in order, are U+0100 and
// on.
constexpr std::array<int16_t, kSymbolLimit> make_byte_of_symbol() {
  std::array<int16_t, kSymbolLimit> byte_of{};
  byte_of.fill(kNoByte);
  int next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
    byte_of[static_cast<size_t>(printable ? byte : next++)] = static_cast<int16_t>(byte);
  }
  return byte_of;
}

constexpr std::array<int16_t, kSymbolLimit> kByteOfSymbol = make_byte_of_symbol();

}  // namespace

std::optional<std::string> bytes_of_symbols(std::string_view symbols) {
  std::string bytes;
  bytes.reserve(symbols.size());
  while (!symbols.empty()) {
    const Utf8Char symbol = decode_utf8(symbols);
    if (symbol.state != Utf8State::kValid || symbol.code >= kSymbolLimit) return std::nullopt;
    const int16_t byte = kByteOfSymbol[symbol.code];
    if (byte == kNoByte) return std::nullopt;
    bytes += static_cast<char>(byte);
    symbols.remove_prefix(symbol.length);
  }
  return bytes;
}

}  // namespace cogserve::text
