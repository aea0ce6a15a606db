// How callers share what there is too little of, so that the flood of one does not keep others out.
// A caller is a number.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace cogserve {

// Whose turn it is where callers share what one has at a time. A value.
class CallerTurns {
 public:
  // Of those that wait, oldest first, the one whose turn is next: the oldest of the caller whose
  // latest turn is longest ago, or who had none. `caller_of` says whose an element is, or nullopt
  // if it does not wait. `end` if none does.
  template <typename Iterator, typename CallerOf>
  Iterator next(Iterator begin, Iterator end, const CallerOf& caller_of) const {
    Iterator next = end;
    size_t most = 0;
    for (; begin != end; ++begin) {
      const std::optional<uint64_t> caller = caller_of(*begin);
      if (!caller.has_value()) continue;
      const size_t others = others_since(*caller);
      if (next != end && others <= most) continue;
      next = begin;
      most = others;
    }
    return next;
  }
  void take(uint64_t caller);

  // Other callers who had a turn since this one's latest; who had none has the most. After
  // kRemembered others a caller counts as having had none.
  size_t others_since(uint64_t caller) const;
  static constexpr size_t kRemembered = 64;

 private:
  std::vector<uint64_t> latest_;  // newest first
};

// The most that a caller who holds `held` of a queue already may come to hold while `free` are left:
// three quarters of both, so that whoever comes next finds room too.
constexpr int64_t queue_share(int64_t held, int64_t free) { return (held + free) * 3 / 4; }

}  // namespace cogserve
