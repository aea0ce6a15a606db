#include "engine/base/sharing.hpp"

#include <algorithm>

namespace cogserve {

size_t CallerTurns::others_since(uint64_t caller) const {
  return static_cast<size_t>(std::find(latest_.begin(), latest_.end(), caller) - latest_.begin());
}

void CallerTurns::take(uint64_t caller) {
  std::erase(latest_, caller);
  latest_.insert(latest_.begin(), caller);
  if (latest_.size() > kRemembered) latest_.pop_back();
}

}  // namespace cogserve
