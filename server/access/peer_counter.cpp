#include "server/access/peer_counter.hpp"

#include <algorithm>
#include <iterator>

namespace cogserve {

bool PeerCounter::counts(const std::string& peer) const {
  return max_ > 0 && peer.rfind("unix", 0) != 0;
}

void PeerCounter::count(const std::string& peer, Clock::time_point now) {
  if (!counts(peer)) return;
  const std::lock_guard lock(mutex_);
  if (windows_.size() >= forget_at_) forget_past(now);
  Window& window = windows_[peer];
  if (window.ends <= now) window = {now + window_, 0};
  ++window.count;
  if (window.count > max_) window.ends = now + window_;
}

std::optional<PeerCounter::Excess> PeerCounter::excess(const std::string& peer,
                                                       Clock::time_point now) const {
  if (!counts(peer)) return std::nullopt;
  const std::lock_guard lock(mutex_);
  const auto found = windows_.find(peer);
  if (found == windows_.end()) return std::nullopt;
  const Window& window = found->second;
  if (window.ends <= now || window.count <= max_) return std::nullopt;
  return Excess{window.count, std::chrono::ceil<std::chrono::milliseconds>(window.ends - now)};
}

void PeerCounter::forget_past(Clock::time_point now) {
  for (auto it = windows_.begin(); it != windows_.end();) {
    it = it->second.ends <= now ? windows_.erase(it) : std::next(it);
  }
  forget_at_ = std::max(kManyPeers, 2 * windows_.size());
}

}  // namespace cogserve
