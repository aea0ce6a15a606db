// Finds stop strings in text that arrives byte by byte.
//
// Owned by one TextStream. The first stop string to be completed wins; of those that end at the
// same byte, the longest. One Knuth-Morris-Pratt automaton per stop string, so linear in the text.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

namespace cogserve::text {

class StopMatcher {
 public:
  // `stops` must not hold empty strings.
  explicit StopMatcher(std::vector<std::string> stops);

  // Takes the next byte; the index of the stop string that it completes.
  std::optional<size_t> push(char byte);

  // How many of the last bytes may yet become a stop string: the longest suffix of the text that is
  // a proper prefix of one.
  size_t pending() const;

  const std::string& stop(size_t index) const { return automata_[index].pattern; }

 private:
  struct Automaton {
    std::string pattern;
    std::vector<size_t> borders;  // by prefix length: its longest proper prefix that is its suffix
    size_t matched = 0;
  };
  std::vector<Automaton> automata_;
};

}  // namespace cogserve::text
