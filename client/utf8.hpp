// Whether bytes from outside (arguments, lines of stdin) may be sent as text.
#pragma once

#include <string_view>

namespace cogserve::client {

// Strict: no overlong forms, no surrogates, nothing above U+10FFFF. So is what servers take.
bool is_utf8(std::string_view text);

}  // namespace cogserve::client
