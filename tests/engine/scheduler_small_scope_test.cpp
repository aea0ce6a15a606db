// All interleavings of a small scope, each state of it checked. COGSERVE_SCOPE_STATES, if set, is
// after how many states it ends.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>
#include <tuple>
#include <unordered_set>
#include <vector>

#include "tests/engine/scheduler_world.hpp"

namespace cogserve {
namespace {

using std::chrono::hours;

// Three requests, four blocks of two tokens. A state is reached by a path of moves; the scheduler
// is not copied but its path is played again.
class SmallScope {
 public:
  // Of the three requests the second has a picture, or all have.
  SmallScope(Pace pace, bool pictures) : pace_(pace), pictures_(pictures) {}

  enum Move { kStep, kFail, kAdd, kRead, kCancel0, kCancel1, kCancel2, kMoves };

  // Returns the number of different states; every one of them has passed every check.
  size_t explore(size_t most_states) {
    nodes_.push_back({-1, kStep});
    seen_.insert(fingerprint(*play(0)));
    for (size_t node = 0; node < nodes_.size() && nodes_.size() < most_states; ++node) {
      for (int move = 0; move < kMoves; ++move) visit(static_cast<int>(node), Move(move));
    }
    return nodes_.size();
  }

  int deepest() const { return deepest_; }

 private:
  struct Node {
    int parent;
    Move move;
  };
  struct Game {
    Game(const SchedulerConfig& config, Pace pace) : world(config, pace) {}
    SchedulerWorld world;
    Clock::time_point now{hours(1)};
    int added = 0;
  };

  static SchedulerConfig config() {
    SchedulerConfig config;
    config.num_blocks = 4;
    config.block_size = 2;
    config.max_num_seqs = 2;
    config.max_num_batched_tokens = 3;
    config.max_model_len = 100;
    config.vision_layers = 2;
    return config;
  }

  WorldRequest request(int index) const {
    WorldRequest request;
    request.ignore_eos = true;
    request.capacity = 2;
    request.text_tokens = index == 0 && !pictures_ ? 2 : 1;
    request.image_tokens = index == 1 || pictures_ ? 3 : 0;
    request.max_tokens = request.image_tokens > 0 ? 3 : 4;
    request.caller = index == 2 ? 2 : 1;
    return request;
  }

  // False: the move is not possible here.
  bool make(Game& game, Move move) const {
    if (move == kStep || move == kFail) {
      if (game.world.idle()) return false;
      game.world.step(game.now, move == kFail ? StepFault::kFailPlan : StepFault::kNone);
    } else if (move == kAdd) {
      if (game.added == 3) return false;
      if (!game.world.submit(request(game.added++), game.now).ok()) throw WorldError("refused");
    } else if (move == kRead) {
      int read = 0;
      for (const auto& c : game.world.clients()) {
        if (c->ended) continue;
        const int before = c->received;
        game.world.read(*c, 100);
        read += c->received - before + c->ended;
      }
      return read > 0;
    } else {
      auto* const c = game.world.find(static_cast<uint64_t>(move - kCancel0) + 1);
      if (c == nullptr || c->sequence == nullptr || c->stream->cancelled()) return false;
      c->stream->cancel();
    }
    return true;
  }

  std::unique_ptr<Game> play(int node) {
    std::vector<Move> path;
    for (; nodes_[node].parent >= 0; node = nodes_[node].parent) path.push_back(nodes_[node].move);
    deepest_ = std::max(deepest_, static_cast<int>(path.size()));
    auto game = std::make_unique<Game>(config(), pace_);
    for (auto move = path.rbegin(); move != path.rend(); ++move) make(*game, *move);
    return game;
  }

  void visit(int node, Move move) {
    const auto game = play(node);
    if (!make(*game, move)) return;
    if (!seen_.insert(fingerprint(*game)).second) return;
    nodes_.push_back({node, move});
    check_way_out(*game);
  }

  // From here everything comes to rest if the readers read.
  static void check_way_out(Game& game) {
    for (int i = 0; i < 200 && !game.world.idle(); ++i) {
      for (const auto& client : game.world.clients()) game.world.read(*client, 100);
      game.world.step(game.now);
    }
    for (const auto& client : game.world.clients()) game.world.read(*client, 100);
    game.world.forget_ended();
    game.world.check_at_rest();
  }

  // Everything that the future depends on; which block is whose does not matter.
  static std::string fingerprint(Game& game) {
    std::string text(1, static_cast<char>(game.world.careful()));
    const uint64_t turns[] = {game.world.latest_turn(1), game.world.latest_turn(2)};
    for (const bool fact : {turns[0] > 0, turns[1] > 0, turns[0] > turns[1]}) {
      text += static_cast<char>(fact);
    }
    for (int i = 0; i < 3; ++i) {
      const auto* const c = game.world.find(static_cast<uint64_t>(i) + 1);
      text += static_cast<char>(i < game.added);
      if (c == nullptr) continue;
      for (const int value :
           {c->received, int{c->ended}, int{c->stream->cancelled()}, int{c->sequence != nullptr}}) {
        text += static_cast<char>(value);
      }
      if (c->sequence == nullptr) continue;
      const Sequence& s = *c->sequence;
      for (const int value :
           {static_cast<int>(s.state), static_cast<int>(s.output_ids.size()), int{s.has_drawn()},
            game.world.flies_from(*c), s.num_computed, static_cast<int>(s.block_table.size()),
            s.vision_layers_done, int{s.features_ready}, int{s.paused}, s.preemptions,
            static_cast<int>(s.order)}) {
        text += static_cast<char>(value);
      }
    }
    return text;
  }

  const Pace pace_;
  const bool pictures_;
  std::vector<Node> nodes_;
  std::unordered_set<std::string> seen_;
  int deepest_ = 0;
};

class SchedulerSmallScope : public ::testing::TestWithParam<std::tuple<Pace, bool>> {};
std::string name_of(const ::testing::TestParamInfo<std::tuple<Pace, bool>>& scope) {
  const auto [pace, pictures] = scope.param;
  return std::string(pictures ? "pictures_" : "mixed_") +
         (pace == Pace::kInTurn ? "in_turn" : "ahead");
}

INSTANTIATE_TEST_SUITE_P(Scopes, SchedulerSmallScope,
                         ::testing::Combine(::testing::Values(Pace::kInTurn, Pace::kAhead),
                                            ::testing::Bool()),
                         name_of);

TEST_P(SchedulerSmallScope, every_interleaving_of_three_requests_keeps_every_promise) {
  const char* const text = std::getenv("COGSERVE_SCOPE_STATES");
  const size_t most = text == nullptr ? 1000000 : std::strtoul(text, nullptr, 10);
  const auto [pace, pictures] = GetParam();
  SmallScope scope(pace, pictures);
  const size_t states = scope.explore(most);
  std::cout << "small scope: " << states << " states, paths of up to " << scope.deepest()
            << " moves, " << (states < most ? "exhausted\n" : "cut short\n");
  EXPECT_TRUE(states < most || text != nullptr) << "the whole scope is small";
  EXPECT_GE(states, 10000u);
}

}  // namespace
}  // namespace cogserve
