// Llama-3's pre-tokenization pattern, matched by hand: one pass, no backtracking, no memory.
#pragma once

#include <string_view>
#include <vector>

namespace cogserve::text {

inline constexpr std::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3})"
    R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// All matches of kLlama3Pattern in `text` (valid UTF-8), in order. They cover it: each character is
// a letter, a number, a space or something else, and the pattern takes each of the four.
std::vector<std::string_view> split_llama3(std::string_view text);

}  // namespace cogserve::text
