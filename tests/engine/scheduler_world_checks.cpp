// What must hold of every plan and after every step.
#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "tests/engine/scheduler_order.hpp"
#include "tests/engine/scheduler_world.hpp"

namespace cogserve {
namespace {

bool pinned(const Sequence& sequence) { return sequence.preemptions >= Scheduler::kMaxPreemptions; }

}  // namespace

// What was cancelled or past its deadline before schedule() is over after it.
void SchedulerWorld::check_ended(const std::vector<Client*>& doomed) const {
  for (const Client* client : doomed) {
    check_that(!live(*client), "a cancelled or late sequence lives on", client->id);
    check_that(client->sequence->block_table.empty(), "an ended sequence holds blocks", client->id);
  }
}

void SchedulerWorld::check_plan(const Plan& plan) {
  in_plan_.clear();
  int rows = 0;
  bool prefill_seen = false;
  for (const ChunkWork& chunk : plan.chunks) {
    const Sequence& s = *chunk.sequence;
    rows += chunk.count;
    check_that(std::count(in_plan_.begin(), in_plan_.end(), &s) == 0, "planned twice", s.id);
    in_plan_.push_back(chunk.sequence);
    check_that(s.state == SequenceState::kRunning, "a planned sequence does not run", s.id);
    check_that(!s.paused && !s.stream->full(s.has_drawn()), "a full stream's sequence is planned",
               s.id);
    check_that(s.generated() < s.request.max_tokens, "planned though it is about to end", s.id);
    check_that(!s.needs_tower(), "planned before its picture is encoded", s.id);
    check_that(chunk.count > 0 && chunk.begin == s.num_computed, "a chunk leaves a gap", s.id);
    check_that(chunk.begin + chunk.count <= s.total_tokens(), "a chunk beyond the end", s.id);
    check_that(chunk.samples == (chunk.begin + chunk.count == s.total_tokens()),
               "samples at the wrong token", s.id);
    const bool decodes = s.pending_tokens() == 1 && s.generated() > 0 && s.num_computed > 0;
    check_that(!decodes || !prefill_seen, "a decode row stands behind a prefill chunk", s.id);
    prefill_seen |= chunk.count > 1;
    Client& client = *find(s.id);
    client.rows += chunk.count;
    check_that(client.rows <= int64_t{1 + s.preemptions} * s.max_kv_tokens(),
               "more rows than its preemptions explain", s.id);
    mix(s.id * 4096 + static_cast<uint64_t>(chunk.count));
  }
  check_that(rows <= config_.max_num_batched_tokens, "too many rows in a step");
  counts_.rows += static_cast<uint64_t>(rows);
}

void SchedulerWorld::check_vision(const Plan& plan) {
  check_that(plan.vision.size() <= 1, "two pictures in the tower");
  for (const VisionWork& work : plan.vision) {
    const Sequence& s = *work.sequence;
    in_plan_.push_back(work.sequence);
    const bool paced = config_.max_itl > std::chrono::nanoseconds(0);
    const int slice = paced ? config_.vision_layers
                            : config_.vision_layers_per_step * (plan.chunks.empty() ? 4 : 1);
    check_that(s.state == SequenceState::kEncoding, "encodes outside the tower", s.id);
    check_that(work.begin == s.vision_layers_done, "a gap in the tower", s.id);
    check_that(work.count > 0 && work.count <= slice, "a wrong tower slice", s.id);
    check_that(work.last == (work.begin + work.count == config_.vision_layers),
               "the tower ends at the wrong layer", s.id);
    Client& client = *find(s.id);
    check_that(!client.encoded, "a picture is encoded twice", s.id);
    client.encoded = work.last;
    counts_.pictures += work.last;
    mix(s.id * 8192 + static_cast<uint64_t>(work.begin));
  }
}

uint64_t SchedulerWorld::latest_turn(uint64_t caller) const {
  const auto turn = tower_turns_.find(caller);
  return turn == tower_turns_.end() ? 0 : turn->second;
}

// Callers take turns at the tower: it takes the oldest picture of the one whose latest turn is
// longest ago, or who never had one. That one is before all that it has passed.
void SchedulerWorld::check_turns() {
  Client* entered = nullptr;
  Client* next = nullptr;
  for (const auto& client : clients_) {
    if (!live(*client) || !client->sequence->needs_tower()) continue;
    if (client->state == SequenceState::kEncoding) continue;
    if (client->sequence->state == SequenceState::kEncoding) entered = client.get();
    const auto turn_of = [this](const Client& c) { return latest_turn(c.request.caller); };
    if (next == nullptr || turn_of(*client) < turn_of(*next)) next = client.get();
  }
  if (entered == nullptr) return;
  check_that(entered == next, "came into the tower before its turn", entered->id);
  bool passed = false;
  for (const auto& client : clients_) {
    if (client.get() == entered || !live(*client) || !client->sequence->needs_tower()) continue;
    check_that(client->sequence->order > entered->sequence->order,
               "is in the tower and not before those that wait for it", client->id);
    passed |= client->id < entered->id;
  }
  counts_.turns += passed;
  tower_turns_[entered->request.caller] = counts_.steps;
  overtakes_ = 0;
}

// The first in the line whose picture waits for the tower alone, or null.
const Sequence* SchedulerWorld::waiting_picture() const {
  const Sequence* first = nullptr;
  int features = 0;
  for (const auto& client : clients_) {
    if (!live(*client)) continue;
    const Sequence& s = *client->sequence;
    features += s.features_ready || s.state == SequenceState::kEncoding;
    if (!s.needs_tower() || s.state != SequenceState::kWaiting) continue;
    if (first == nullptr || s.order < first->order) first = &s;
  }
  return features < config_.max_pictures ? first : nullptr;
}

// Nothing starts before an older sequence that could, unless that has to share; and starting leaves
// the watermark.
void SchedulerWorld::check_order() {
  int growing = 0;
  for (const auto& client : clients_) {
    if (!live(*client) || client->sequence->state != SequenceState::kRunning) continue;
    const Sequence& s = *client->sequence;
    growing += !s.paused &&
               s.max_kv_tokens() > static_cast<int>(s.block_table.size()) * config_.block_size;
  }
  const Sequence* const picture = waiting_picture();
  if (picture != nullptr && picture->id != std::exchange(overtaken_id_, picture->id)) {
    overtakes_ = 0;
  }
  const SchedulerOrder order(clients_, in_plan_, config_);
  for (const Client* started : order.started()) {
    overtakes_ += picture != nullptr && picture->order < started->sequence->order;
  }
  check_that(overtakes_ <= Scheduler::kMaxOvertakes, "overtaken too often",
             picture ? picture->id : 0);
  if (order.started().empty()) return;
  check_that(scheduler_.blocks().num_free() >= growing - 1, "started below the watermark",
             order.started().back()->id);
  check_pinned(*order.started().back()->sequence);
  const Client* const passed = order.passed_for_no_reason();
  check_that(passed == nullptr, "overtaken though it could start", passed ? passed->id : 0);
  const Client* const greedy =
      order.started_beyond_share(overtakes_ < Scheduler::kMaxOvertakes ? nullptr : picture);
  check_that(greedy == nullptr, "started beyond its share", greedy ? greedy->id : 0);
  counts_.passed += static_cast<uint64_t>(order.passed());
}

// Which has just started: if it never gives its blocks back, the older ones can do without.
void SchedulerWorld::check_pinned(const Sequence& started) const {
  if (!pinned(started)) return;
  int owed = 0;
  for (const auto& client : clients_) {
    if (!live(*client) || client->sequence->state != SequenceState::kRunning) continue;
    const Sequence& s = *client->sequence;
    if (s.paused || s.order >= started.order) continue;
    const int most = (s.max_kv_tokens() + config_.block_size - 1) / config_.block_size;
    owed += most - static_cast<int>(s.block_table.size());
  }
  check_that(scheduler_.blocks().num_free() >= owed, "pinned at the cost of the older", started.id);
}

void SchedulerWorld::check_preemptions() {
  for (const auto& client : clients_) {
    if (!live(*client)) continue;
    const Sequence& s = *client->sequence;
    if (s.preemptions == client->preemptions) continue;
    check_that(s.preemptions == client->preemptions + 1, "preempted twice in a step", s.id);
    check_that(s.preemptions <= Scheduler::kMaxPreemptions, "preempted too often", s.id);
    check_that(s.num_computed == 0, "a preempted sequence trusts a cache", s.id);
    check_that(!s.needs_tower(), "preemption lost the picture's features", s.id);
    ++counts_.preemptions;
    counts_.most_preemptions = std::max(counts_.most_preemptions, s.preemptions);
    if (s.paused) continue;
    for (const auto& other : clients_) {
      if (!live(*other) || other->state != SequenceState::kRunning) continue;
      const Sequence& o = *other->sequence;
      check_that(o.state != SequenceState::kRunning || pinned(o) ||
                     (o.order < s.order && !o.paused) || o.id == s.id,
                 "an older sequence was preempted before a younger or a lagging one", s.id);
    }
  }
}

void SchedulerWorld::check_blocks() const {
  const BlockManager& blocks = scheduler_.blocks();
  std::vector<int> owners(blocks.num_blocks(), 0);
  for (const auto& client : clients_) {
    if (client->sequence == nullptr) continue;
    const Sequence& s = *client->sequence;
    check_that(s.state == SequenceState::kRunning || s.block_table.empty(),
               "holds blocks but does not run", s.id);
    check_that(!live(*client) ||
                   static_cast<int>(s.block_table.size()) * config_.block_size >= s.num_computed,
               "computed beyond its blocks", s.id);
    for (const int32_t block : s.block_table) ++owners.at(block);
  }
  int used = 0;
  for (int block = 0; block < blocks.num_blocks(); ++block) {
    check_that(blocks.references(block) == owners[block], "a count differs from its owners");
    used += owners[block] > 0;
  }
  check_that(used + blocks.num_free() == blocks.num_blocks(), "blocks are lost");
}

void SchedulerWorld::check_caps() {
  int running = 0, encoding = 0, features = 0, queued = 0;
  std::map<uint64_t, int> queued_of;
  for (const auto& client : clients_) {
    if (!live(*client)) continue;
    const Sequence& s = *client->sequence;
    running += s.state == SequenceState::kRunning;
    encoding += s.state == SequenceState::kEncoding;
    features += s.features_ready || s.state == SequenceState::kEncoding;
    queued += !s.started();
    queued_of[s.request.caller] += !s.started();
    check_that(static_cast<int>(s.output_ids.size()) < s.request.max_tokens, "too many tokens",
               s.id);
  }
  check_that(running <= config_.max_num_seqs, "too many sequences run");
  check_that(encoding <= 1, "two pictures in the tower");
  check_that(features <= config_.max_pictures, "too many pictures are kept");
  check_that(queued <= config_.max_queue_size, "the queue is too long");
  const QueueState& queue = scheduler_.queue();
  check_that(queue.requests() == queued, "the queue is not what waits");
  for (const auto& [caller, requests] : queued_of) {
    if (caller == 0) continue;
    check_that(queue.requests_of(caller) == requests, "a caller's queue is not what waits");
    check_that(requests <= 1 || requests <= config_.max_queue_size * 3 / 4, "no room is left");
  }
  const SchedulerStats stats = scheduler_.stats();
  check_that(stats.running == running + encoding, "stats: running");
  check_that(stats.blocks_used == config_.num_blocks - scheduler_.blocks().num_free(),
             "stats: blocks");
}

// If somebody can run, somebody does, in this very step; and the oldest that runs does.
void SchedulerWorld::check_progress(const Plan& plan) {
  Client* oldest = nullptr;
  bool excused = false;
  bool pinned_runs = false;
  for (const auto& client : clients_) {
    if (!live(*client)) continue;
    const Sequence& s = *client->sequence;
    if (!s.paused && (oldest == nullptr || s.order < oldest->sequence->order))
      oldest = client.get();
    excused |= s.paused && (s.features_ready || s.state == SequenceState::kRunning);
    excused |= s.has_drawn();
    pinned_runs |= s.state == SequenceState::kRunning && pinned(s);
  }
  if (oldest == nullptr) return;
  if (plan.empty()) {
    check_that(excused, "nothing runs though something could", oldest->id);
    ++counts_.excused_steps;
  }
  const bool works = std::count(in_plan_.begin(), in_plan_.end(), oldest->sequence) > 0;
  const Sequence& first = *oldest->sequence;
  const bool waits =
      first.has_drawn() && (first.generated() >= first.request.max_tokens || first.stream->full(1));
  check_that(works || waits || pinned_runs || first.state != SequenceState::kRunning,
             "the oldest runs and does not progress", oldest->id);
  // While the clock stands still no reader lags for too long.
  oldest->waited = works ? 0 : oldest->waited + !clock_stands_;
  counts_.oldest_waited = std::max(counts_.oldest_waited, oldest->waited);
}

}  // namespace cogserve
