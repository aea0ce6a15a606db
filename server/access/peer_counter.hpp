// How often something has happened with each peer of late: what tells the few that overdo it.
//
// Thread-safe; time is passed in.
#pragma once

#include <chrono>
#include <cstddef>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>

#include "engine/request.hpp"

namespace cogserve {

class PeerCounter {
 public:
  // From as many peers on, those whose window has passed are forgotten.
  static constexpr size_t kManyPeers = 4096;

  struct Excess {
    int count;
    std::chrono::milliseconds left;  // until the peer starts anew
  };

  // `max` in one window; 0: any number. Once over it, each further one begins a whole window.
  PeerCounter(int max, std::chrono::milliseconds window) : max_(max), window_(window) {}

  // The connections of a Unix socket cannot be told apart, so that theirs are not counted.
  void count(const std::string& peer, Clock::time_point now);

  // Nothing while the peer keeps within the limit.
  std::optional<Excess> excess(const std::string& peer, Clock::time_point now) const;

 private:
  struct Window {
    Clock::time_point ends;
    int count = 0;
  };

  bool counts(const std::string& peer) const;
  void forget_past(Clock::time_point now);

  const int max_;
  const std::chrono::milliseconds window_;
  mutable std::mutex mutex_;
  std::unordered_map<std::string, Window> windows_;
  size_t forget_at_ = kManyPeers;  // twice what was left, so that forgetting stays cheap
};

}  // namespace cogserve
