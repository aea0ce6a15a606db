// Who may start before whom: a check of all that has started in a step of a SchedulerWorld. The
// oldest starts first, but for what callers may hold of blocks and seats while others wait.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "tests/engine/scheduler_world.hpp"

namespace cogserve {

class SchedulerOrder {
 public:
  using Client = SchedulerWorld::Client;

  // `planned`: whose work was planned, in order. To be asked between schedule() and commit().
  SchedulerOrder(const std::vector<std::unique_ptr<Client>>& clients,
                 const std::vector<Sequence*>& planned, const SchedulerConfig& config)
      : config_(config) {
    for (const auto& client : clients) {
      if (client->sequence == nullptr) continue;
      if (client->sequence->state != SequenceState::kFinished) live_.push_back(client.get());
    }
    for (const Sequence* sequence : planned) {
      const auto found = std::ranges::find(live_, sequence, &Client::sequence);
      if (found != live_.end() && has_started(**found)) started_.push_back(*found);
    }
  }

  const std::vector<const Client*>& started() const { return started_; }

  // How many wait for blocks although a younger one has started.
  int passed() const {
    return static_cast<int>(std::ranges::count_if(live_, [this](const Client* older) {
      return could_start(*older) && std::ranges::any_of(started_, [older](const Client* younger) {
               return before(*older, *younger);
             });
    }));
  }

  // One that was passed though no share held it back; or by a younger one of its own caller, unless
  // that was preempted and came back. Null: nobody was.
  const Client* passed_for_no_reason() const {
    for (const Client* younger : started_) {
      for (const Client* older : live_) {
        if (!before(*older, *younger) || !could_start(*older)) continue;
        if (!held_back(*older)) return older;
        const bool own = older->request.caller == younger->request.caller;
        if (own && younger->sequence->preemptions == 0) return older;
      }
    }
    return nullptr;
  }

  // One that started beyond its caller's share though another caller's waits that would not, or
  // that is older; or null. `barrier`, which may be null: nobody behind it starts.
  const Client* started_beyond_share(const Sequence* barrier) const {
    for (auto at = started_.begin(); at != started_.end(); ++at) {
      const Client& client = **at;
      if (client.request.caller == 0 || client.sequence->preemptions > 0) continue;
      int seats = 0, held = 0;
      for (const Client* own : live_) {
        const bool before = std::find(at, started_.end(), own) == started_.end();
        if (own->request.caller != client.request.caller || !before) continue;
        seats += blocks_of(*own) > 0;
        held += blocks_of(*own);
      }
      if (within_share(seats, held, blocks_of(client))) continue;
      const auto goes_first = [&](const Client* other) {
        if (other->request.caller == client.request.caller || !could_start(*other)) return false;
        return before(*other, client) ||
               !(held_back(*other) ||
                 (barrier != nullptr && barrier->order < other->sequence->order));
      };
      if (std::ranges::any_of(live_, goes_first)) return &client;
    }
    return nullptr;
  }

 private:
  // In the line.
  static bool before(const Client& a, const Client& b) {
    return a.sequence->order < b.sequence->order;
  }

  static int blocks_of(const Client& client) {
    return static_cast<int>(client.sequence->block_table.size());
  }

  static bool has_started(const Client& client) {
    const Sequence& s = *client.sequence;
    return s.state == SequenceState::kRunning &&
           (client.state != SequenceState::kRunning || client.preemptions != s.preemptions);
  }

  static bool could_start(const Client& client) {
    const Sequence& s = *client.sequence;
    return s.state == SequenceState::kWaiting && !s.paused && !s.needs_tower();
  }

  // Of one that could start: it, or an older one of its caller's, would exceed the share.
  bool held_back(const Client& client) const {
    if (client.sequence->preemptions > 0) return false;
    return std::ranges::any_of(live_, [&](const Client* own) {
      return own->request.caller == client.request.caller && !before(client, *own) &&
             could_start(*own) && exceeds_share(*own);
    });
  }

  // What its caller has lost in this step, to one that has started, still counts.
  bool exceeds_share(const Client& client) const {
    if (client.request.caller == 0 || client.sequence->preemptions > 0) return false;
    int seats = 0, held = 0;
    for (const Client* own : live_) {
      if (own->request.caller != client.request.caller) continue;
      const int blocks = std::max(own->blocks, blocks_of(*own));
      seats += blocks > 0;
      held += blocks;
    }
    const int tokens = client.sequence->total_tokens();
    return !within_share(seats, held, (tokens + config_.block_size - 1) / config_.block_size);
  }

  // Half of the blocks and of the seats, with one more sequence; or nothing yet.
  bool within_share(int seats, int blocks, int more_blocks) const {
    return seats == 0 || (2 * (seats + 1) <= config_.max_num_seqs &&
                          2 * (blocks + more_blocks) <= config_.num_blocks);
  }

  const SchedulerConfig& config_;
  std::vector<const Client*> live_;
  std::vector<const Client*> started_;  // in this step, in order
};

}  // namespace cogserve
