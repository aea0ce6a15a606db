// How callers share what there is too little of, so that the flood of one does not keep others out.
// A caller is a number; all that are not known are one, 0.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace cogserve {

// Whose turn it is where callers share what one has at a time. A value.
class CallerTurns {
 public:
  // Other callers who had a turn since this one's latest; more than anybody's who had one if this
  // one had none, or one so long ago that it is forgotten. Who waits with the most goes next.
  size_t others_since(uint64_t caller) const;
  void take(uint64_t caller);

  // So many others may have turns before one who waits goes next, whoever is new meanwhile.
  static constexpr size_t kRemembered = 64;

 private:
  std::vector<uint64_t> latest_;  // newest first
};

// The most that `caller`, who holds `held` of what all share, may hold while `free` are left: three
// quarters of those and its own, so that whoever comes next finds something too. One that holds
// nothing yet may have what there is, and so may those that are not known.
int64_t fair_share(uint64_t caller, int64_t held, int64_t free);

}  // namespace cogserve
