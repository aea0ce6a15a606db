// "Did you mean ...?" for flags and verbs.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace cogserve {

// The candidate with the fewest edits from `word`; empty if none is near (two edits,
// or a third of its length).
std::string nearest_word(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace cogserve
