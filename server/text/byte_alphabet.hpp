// The byte-level alphabet of tokenizer.json: each byte is written as one printable character, so
// that any token is a readable string (space is U+0120, newline U+010A). Pure functions.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace cogserve::text {

// The bytes that `symbols` (UTF-8) spells; nothing when a character is not of the alphabet.
std::optional<std::string> bytes_of_symbols(std::string_view symbols);

}  // namespace cogserve::text
