#include "server/text/stop_matcher.hpp"

#include <algorithm>
#include <utility>

namespace cogserve::text {
namespace {

// Length of the longest prefix of `pattern` that ends with `byte`, after `matched` bytes of it.
size_t advance(const std::string& pattern, const std::vector<size_t>& borders, size_t matched,
               char byte) {
  while (matched > 0 && (matched == pattern.size() || pattern[matched] != byte)) {
    matched = borders[matched];
  }
  return pattern[matched] == byte ? matched + 1 : matched;
}

}  // namespace

StopMatcher::StopMatcher(std::vector<std::string> stops) {
  for (std::string& stop : stops) {
    std::vector<size_t> borders{0, 0};
    for (size_t i = 1; i < stop.size(); ++i) {
      borders.push_back(advance(stop, borders, borders[i], stop[i]));
    }
    automata_.push_back({std::move(stop), std::move(borders)});
  }
}

std::optional<size_t> StopMatcher::push(char byte) {
  std::optional<size_t> completed;
  for (size_t i = 0; i < automata_.size(); ++i) {
    Automaton& automaton = automata_[i];
    automaton.matched = advance(automaton.pattern, automaton.borders, automaton.matched, byte);
    if (automaton.matched < automaton.pattern.size()) continue;
    if (!completed.has_value() || automaton.pattern.size() > stop(*completed).size()) completed = i;
  }
  return completed;
}

size_t StopMatcher::pending() const {
  size_t longest = 0;
  for (const Automaton& automaton : automata_) {
    const bool complete = automaton.matched == automaton.pattern.size();
    longest =
        std::max(longest, complete ? automaton.borders[automaton.matched] : automaton.matched);
  }
  return longest;
}

}  // namespace cogserve::text
