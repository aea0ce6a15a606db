// Broken invariants. They throw; the engine loop catches them once, ends the streams it touches,
// and never hangs anybody. Never used for what a caller can cause.
#pragma once

#include <source_location>
#include <stdexcept>
#include <string>

namespace cogserve {

class InvariantError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

inline void check(bool holds, const char* what,
                  std::source_location at = std::source_location::current()) {
  if (holds) return;
  throw InvariantError(std::string(what) + " (" + at.function_name() + ":" +
                       std::to_string(at.line()) + ")");
}

}  // namespace cogserve
