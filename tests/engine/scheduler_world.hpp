// A Scheduler with everything around it replaced by fakes that check it: a model whose tokens are
// a pure function of request and index, a shadow of the KV memory that knows who wrote each slot,
// and readers that check what they are told. Any broken promise throws WorldError.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/schedule/scheduler.hpp"

namespace cogserve {

class WorldError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

constexpr int32_t kWorldEos = 7;
constexpr int32_t kWorldStop = 11;

// Token `index` of request `id`: what every reader must get, whatever the schedule.
int32_t world_token(uint64_t id, int index);

struct WorldRequest {
  int text_tokens = 0;
  int image_tokens = 0;
  int max_tokens = 1;
  bool ignore_eos = false;
  bool stops = false;  // has kWorldStop as a stop token
  int capacity = 1 << 20;
  uint64_t caller = 0;
  Clock::time_point deadline = Clock::time_point::max();
};

// Where steps do not wait, a plan that fails is retracted with the one before it; only if the next
// one, which goes alone, fails as well, does it end its sequences.
enum class StepFault { kNone, kFailPlan, kFailAll };

// Whether a step waits for its tokens, or the next one is planned before they are known.
enum class Pace { kInTurn, kAhead };

struct WorldCounts {
  uint64_t steps = 0, empty_steps = 0, rows = 0, tokens = 0, submitted = 0, refused = 0, taken = 0;
  uint64_t preemptions = 0, pictures = 0;
  uint64_t passed = 0;  // times that one was held back by its caller's share
  uint64_t turns = 0;   // times that a picture came into the tower before an older one
  uint64_t finished = 0, cancelled = 0, deadlines = 0, queue_timeouts = 0, slow_readers = 0;
  uint64_t numeric_faults = 0, step_faults = 0;
  uint64_t excused_steps = 0;  // nothing ran because lagging readers hold what the others need
  uint64_t oldest_waited = 0;  // most steps in a row without work for the oldest live sequence
  int most_preemptions = 0;    // of one sequence

  void add(const WorldCounts& other);
};

class SchedulerWorld {
 public:
  // What the world knows of a request, from its submission on.
  struct Client {
    uint64_t id = 0;
    WorldRequest request;
    Sequence* sequence = nullptr;  // null when the scheduler has handed it back
    std::shared_ptr<TokenStream> stream;
    int received = 0;
    bool ended = false;
    bool poisoned = false;
    bool plan_failed = false;
    // As seen after the last step.
    SequenceState state = SequenceState::kWaiting;
    int preemptions = 0;
    int blocks = 0;
    int64_t rows = 0;
    bool encoded = false;
    uint64_t waited = 0;
  };

  explicit SchedulerWorld(SchedulerConfig config, Pace pace = Pace::kInTurn);

  // Ids count from 1 over accepted and refused requests alike. The client lives until `forget`.
  absl::Status submit(const WorldRequest& request, Clock::time_point now);
  // Plan, run, commit or fail, then check everything. `poison` says whether a token is not finite.
  void step(Clock::time_point now, StepFault fault = StepFault::kNone,
            const std::function<bool()>& poison = {});
  // Takes up to `limit` events from the client's stream and checks them.
  void read(Client& client, int limit);
  // Drops clients that have seen their end.
  void forget_ended();
  // Nothing waits, runs or is under way.
  bool idle() const { return scheduler_.idle() && flying_.empty(); }
  // The first token of the client's work that is under way, -1 if there is none.
  int flies_from(const Client& client) const;
  // Whether the next step goes alone.
  bool careful() const { return careful_; }
  // At rest nothing is held.
  void check_at_rest();

  Scheduler& scheduler() { return scheduler_; }
  std::vector<std::unique_ptr<Client>>& clients() { return clients_; }
  Client* find(uint64_t id);
  const WorldCounts& counts() const { return counts_; }
  // The step in which the tower took the caller's last picture, or 0.
  uint64_t latest_turn(uint64_t caller) const;
  uint64_t trace() const { return trace_; }  // hash of all that happened

 private:
  struct Slot {
    uint64_t id = 0;
    int index = -1;
    int32_t token = -1;
  };

  void check_that(bool holds, const char* what, uint64_t id = 0) const;
  void check_ended(const std::vector<Client*>& doomed) const;
  void check_plan(const Plan& plan);
  void check_vision(const Plan& plan);
  void check_turns();
  const Sequence* waiting_picture() const;
  void check_order();
  void check_pinned(const Sequence& started) const;
  void check_preemptions();
  void check_blocks() const;
  void check_caps();
  void check_progress(const Plan& plan);
  void check_end(const Client& client, const EndEvent& end);
  std::vector<SampledToken> start(const Plan& plan, const std::function<bool()>& poison);
  void settle(Plan plan, std::vector<SampledToken> sampled, StepFault fault, Clock::time_point now);
  void fail(const Plan& plan, StepFault fault, Clock::time_point now);
  void take_back(const Plan& plan);
  void compute(const ChunkWork& chunk);
  void check_token(const Sequence& sequence, int index, int32_t expected) const;
  void take_finished();
  void snapshot();
  bool live(const Client& client) const;
  void mix(uint64_t value);

  const SchedulerConfig config_;
  const Pace pace_;
  Scheduler scheduler_;
  Plan flying_;  // started, its tokens not committed
  std::vector<SampledToken> flying_tokens_;
  bool careful_ = false;                          // the next step goes alone
  std::vector<std::unique_ptr<Sequence>> ended_;  // may be part of `flying_`
  std::vector<Slot> memory_;
  std::vector<std::unique_ptr<Client>> clients_;  // ascending by id
  std::vector<Sequence*> in_plan_;                // of the last step
  std::map<uint64_t, uint64_t> tower_turns_;      // of each caller, the step of its latest
  uint64_t overtaken_id_ = 0;                     // the picture that waited for the tower
  int overtakes_ = 0;                             // younger ones that started since the latest turn
  uint64_t next_id_ = 1;
  Clock::time_point latest_ = Clock::time_point::min();
  bool clock_stands_ = false;  // for the scheduler: it went back and has not caught up yet
  WorldCounts counts_;
  uint64_t trace_ = 0;
};

}  // namespace cogserve
