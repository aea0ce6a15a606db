// Rewrites a pre-tokenization pattern for PCRE2. A pure function.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace cogserve::text {

// tokenizer.json's patterns are written for Oniguruma. The classes \p{L}, \p{N}, \s and their
// complements become the ranges of UnicodeClasses; everything else must mean the same in both
// engines and is kept. InvalidArgument names the construct that does not, and its byte offset.
absl::StatusOr<std::string> translate_pattern(std::string_view pattern);

}  // namespace cogserve::text
