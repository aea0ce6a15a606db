// How often a connection may cancel calls before its next ones are refused for a while.
//
// Opening and resetting streams costs a client nothing and a server something (rapid reset).
// Thread-safe; time is passed in.
#pragma once

#include <chrono>
#include <cstddef>
#include <mutex>
#include <string>
#include <unordered_map>

#include "absl/status/status.h"
#include "engine/request.hpp"

namespace cogserve {

class CancelBudget {
 public:
  static constexpr std::chrono::seconds kWindow{10};
  // Connections remembered; beyond that those whose window has passed are forgotten.
  static constexpr size_t kMaxPeers = 4096;

  // `max_cancels` in one window; 0: any number. The connections of a Unix socket cannot be told
  // apart, so that theirs are not counted.
  explicit CancelBudget(int max_cancels) : max_cancels_(max_cancels) {}

  void count(const std::string& peer, Clock::time_point now);

  // RESOURCE_EXHAUSTED CANCEL_RATE with the time after which to try again.
  absl::Status check(const std::string& peer, Clock::time_point now) const;

 private:
  struct Window {
    Clock::time_point ends;
    int cancels = 0;
  };

  bool counts(const std::string& peer) const;
  void forget_past(Clock::time_point now);

  const int max_cancels_;
  mutable std::mutex mutex_;
  std::unordered_map<std::string, Window> windows_;
};

}  // namespace cogserve
