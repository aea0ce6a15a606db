// Broken invariants and broken devices. They throw; the engine loop catches them once, ends the
// streams they touch, and never hangs anybody. Never used for what a caller can cause.
#pragma once

#include <stdexcept>
#include <string>

namespace cogserve {

class InvariantError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

// The device has failed for good: nothing that runs on it can be trusted or continued. The engine
// ends every stream and asks for a restart.
class DeviceFault : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The builtins are std::source_location's; clang 14 has them, but not the class.
inline void check(bool holds, const char* what, const char* function = __builtin_FUNCTION(),
                  int line = __builtin_LINE()) {
  if (holds) return;
  throw InvariantError(std::string(what) + " (" + function + ":" + std::to_string(line) + ")");
}

}  // namespace cogserve
