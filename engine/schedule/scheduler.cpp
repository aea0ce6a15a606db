#include "engine/schedule/scheduler.hpp"

#include <algorithm>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "engine/base/check.hpp"
#include "engine/base/error.hpp"
#include "engine/schedule/end_event.hpp"

namespace cogserve {
namespace {

// While nothing else runs nobody waits for the slice to end, but a cancel still wants a boundary.
constexpr int kIdleSlices = 4;

bool earlier(const std::unique_ptr<Sequence>& a, const std::unique_ptr<Sequence>& b) {
  return a->order < b->order;
}

template <typename Container>
void insert_in_order(Container& sequences, std::unique_ptr<Sequence> sequence) {
  const auto at = std::upper_bound(sequences.begin(), sequences.end(), sequence, earlier);
  sequences.insert(at, std::move(sequence));
}

// Never preempted (again): it holds every block that it can ever need.
bool pinned(const Sequence& sequence) { return sequence.preemptions >= Scheduler::kMaxPreemptions; }

// Whether the token that is not known yet ends the sequence for certain, or fills its reader's box.
bool must_wait(const Sequence& s) {
  return s.has_drawn() && (s.generated() >= s.request.max_tokens || s.stream->full(1));
}

}  // namespace

Scheduler::Scheduler(SchedulerConfig config)
    : config_(std::move(config)),
      blocks_(config_.num_blocks),
      vision_pacer_(config_.max_itl, config_.vision_layers_per_step) {
  check(config_.block_size > 0, "block_size must be positive");
  check(config_.max_num_seqs > 0, "max_num_seqs must be positive");
  check(config_.max_pictures > 0, "max_pictures must be positive");
  check(config_.max_num_batched_tokens > 0, "max_num_batched_tokens must be positive");
  check(config_.vision_layers_per_step > 0, "vision_layers_per_step must be positive");
}

// --- coming in -----------------------------------------------------------------------------------

absl::Status Scheduler::add(Owned sequence, Clock::time_point now) {
  now_ = std::max(now_, now);
  check(sequence->id > newest_id_, "ids ascend");
  check(!sequence->has_image() || config_.vision_layers > 0, "no tower for a picture");
  if (sequence->submitted == kNever) sequence->submitted = now_;
  if (const absl::Status status =
          check_fits(config_, sequence->layout.size(), sequence->request.max_tokens);
      !status.ok()) {
    return status;
  }
  if (const absl::Status status = check_queue(*sequence); !status.ok()) return status;

  newest_id_ = sequence->order = sequence->id;
  Queue& queue = sequence->has_image() ? queued_pictures_ : queued_texts_;
  sequence->starts_before = queue.starts;
  const uint64_t caller = sequence->request.caller;
  const size_t bytes = sequence->queue_bytes();
  queue_.add(caller, bytes);
  absl::Cleanup undo = [&] { queue_.remove(caller, bytes); };
  waiting_.push_back(std::move(sequence));
  std::move(undo).Cancel();
  ++queue.size;
  return absl::OkStatus();
}

absl::Status Scheduler::check_queue(Sequence& sequence) {
  const Clock::time_point deadline = sequence.request.deadline;
  if (now_ >= deadline) {
    return with_phase(make_error(absl::StatusCode::kDeadlineExceeded, "DEADLINE_EXCEEDED", "",
                                 "the deadline passed before the request was queued"),
                      phase_of(sequence));
  }
  if (absl::Status full =
          queue().check_room(config_, sequence.request.caller, sequence.queue_bytes(), sequence.id);
      !full.ok()) {
    return full;
  }
  const WaitEstimate& wait = (sequence.has_image() ? queued_pictures_ : queued_texts_).wait;
  sequence.ahead = sequence.has_image() ? pictures_ahead_of(sequence) : texts_ahead_of(sequence);
  const auto expected = wait.expected(sequence.ahead);
  if (!wait.known() || expected <= deadline - now_) return absl::OkStatus();
  const absl::Status refused =
      make_error(absl::StatusCode::kResourceExhausted, "DEADLINE_UNMEETABLE", "",
                 absl::StrCat("the deadline is in ", format_ms(deadline - now_), " and about ",
                              sequence.ahead, " of the waiting requests start before this one"));
  return with_phase(
      with_limit(with_retry_delay(refused, wait.retry_delay(sequence.ahead, sequence.id)),
                 format_ms(deadline - now_), format_ms(expected)),
      "queue");
}

// How many of the waiting texts are likely to start before a newcomer: those of callers who are
// held back are not, unless its own is.
int Scheduler::texts_ahead_of(const Sequence& newcomer) const {
  if (exceeds_share(newcomer)) return queued_texts_.size;
  std::unordered_map<uint64_t, bool> held_back;
  int ahead = 0;
  for (const Owned& sequence : waiting_) {
    if (sequence->has_image() || sequence->started()) continue;
    const uint64_t caller = sequence->request.caller;
    const auto [found, is_oldest] = held_back.try_emplace(caller, false);
    if (is_oldest) found->second = caller != newcomer.request.caller && exceeds_share(*sequence);
    ahead += !found->second;
  }
  return ahead;
}

// The same of pictures, which take turns by caller: before a newcomer's turn each other caller has
// as many as its own has before, or one more if that one's turn comes first.
int Scheduler::pictures_ahead_of(const Sequence& newcomer) const {
  struct Waiting {
    int pictures = 0;
    bool first = false;  // of two whose turns are equally long ago
  };
  const uint64_t caller = newcomer.request.caller;
  std::unordered_map<uint64_t, Waiting> callers;
  for (const Owned& sequence : waiting_) {
    if (!sequence->needs_tower()) continue;
    const auto [found, is_oldest] = callers.try_emplace(sequence->request.caller);
    if (is_oldest) found->second.first = !callers.contains(caller);
    ++found->second.pictures;
  }
  const size_t since = tower_turns_.others_since(caller);
  const int own = callers[caller].pictures;
  int ahead = own;
  for (const auto& [other, waiting] : callers) {
    if (other == caller) continue;
    const size_t others_since = tower_turns_.others_since(other);
    const bool first = others_since > since || (others_since == since && waiting.first);
    ahead += std::min(waiting.pictures, own + first);
  }
  return ahead;
}

const QueueState& Scheduler::queue() {
  // What is full is full of both kinds.
  const bool pictures = queued_pictures_.wait.expected(queued_pictures_.size) >
                        queued_texts_.wait.expected(queued_texts_.size);
  const Queue& longer = pictures ? queued_pictures_ : queued_texts_;
  queue_.wait = longer.wait;
  queue_.ahead = longer.size;
  return queue_;
}

// --- planning ------------------------------------------------------------------------------------

Plan Scheduler::schedule(Clock::time_point now) {
  check(open_work_ == 0, "the last plan was neither committed nor failed");
  now_ = std::max(now_, now);
  end_overdue();
  in_the_way_ = 0;

  Plan plan;
  int rows = config_.max_num_batched_tokens;
  plan.chunks.reserve(running_.size() + 1);
  plan_decoding(plan, rows);
  plan_prefill(plan, rows);
  enter_tower();
  admit(plan, rows);
  plan_vision(plan);
  open_work_ = plan.size();
  plan.made = now_;
  steps_ += !plan.empty();
  return plan;
}

void Scheduler::plan_decoding(Plan& plan, int& rows) {
  // The oldest progresses in every step: if it prefills, a row is kept for it.
  const auto oldest = std::find_if(running_.begin(), running_.end(),
                                   [](const Owned& sequence) { return !sequence->paused; });
  const int kept = oldest != running_.end() && (*oldest)->pending_tokens() > 1;
  rows -= kept;
  for (size_t i = 0; i < running_.size() && rows > 0; ++i) {
    Sequence& sequence = *running_[i];
    if (sequence.paused || sequence.pending_tokens() > 1 || must_wait(sequence)) continue;
    if (grow(sequence)) plan_chunk(plan, rows, sequence);
    // A victim may have stood before it.
    if (i == running_.size() || running_[i].get() != &sequence) --i;
  }
  rows += kept;
}

void Scheduler::plan_prefill(Plan& plan, int& rows) {
  for (const Owned& sequence : running_) {
    if (rows == 0) return;
    if (sequence->paused || sequence->pending_tokens() == 1) continue;
    plan_chunk(plan, rows, *sequence);
  }
}

void Scheduler::admit(Plan& plan, int& rows) {
  while (rows > 0) {
    Sequence* const next = next_to_start();
    if (next == nullptr || next->has_drawn()) return;  // the latter may be about to end
    if (!make_room(*next)) {
      blame_a_reader(pinned);
      return;
    }
    Sequence* const picture = oldest_picture();
    if (picture != nullptr && picture->order < next->order) ++picture->overtaken;
    start_running(*next);
    plan_chunk(plan, rows, *next);
  }
}

// The oldest that wants blocks, or null. One that would exceed its caller's share lets those of
// others pass.
Sequence* Scheduler::next_to_start() const {
  Sequence* oldest_held_back = nullptr;
  std::vector<uint64_t> callers_held_back;  // their younger ones wait behind the oldest
  const Sequence* const picture = oldest_picture();
  for (const Owned& sequence : waiting_) {
    if (sequence.get() == picture && picture->overtaken >= kMaxOvertakes) break;
    if (sequence->needs_tower() || sequence->paused) continue;
    if (sequence->preemptions > 0) return sequence.get();  // it had its turn
    const uint64_t caller = sequence->request.caller;
    if (std::find(callers_held_back.begin(), callers_held_back.end(), caller) !=
        callers_held_back.end()) {
      continue;
    }
    if (!exceeds_share(*sequence)) return sequence.get();
    callers_held_back.push_back(caller);
    if (oldest_held_back == nullptr) oldest_held_back = sequence.get();
  }
  return oldest_held_back;
}

// Whether its caller, of whom some run already, would have more than half of the blocks with it, or
// of the seats.
bool Scheduler::exceeds_share(const Sequence& sequence) const {
  if (sequence.request.caller == 0) return false;
  int seats = 0, blocks = 0;
  for (const Owned& other : running_) {
    if (other->request.caller != sequence.request.caller) continue;
    ++seats;
    blocks += static_cast<int>(other->block_table.size());
  }
  return seats > 0 && (seats + 1 > config_.max_num_seqs / 2 ||
                       blocks + blocks_to_start(sequence) > blocks_.num_blocks() / 2);
}

// The oldest that waits for nothing but the tower's getting free; null while `max_pictures` are
// kept.
Sequence* Scheduler::oldest_picture() const {
  if (queued_pictures_.size == 0 || features_held_ >= config_.max_pictures) return nullptr;
  for (const Owned& sequence : waiting_) {
    if (sequence->needs_tower()) return sequence.get();
  }
  return nullptr;
}

// Takes the picture whose turn it is out of the line. It goes to the place of the oldest first, and
// each that it passes to that of the next: else its features would wait behind texts, in a place
// that pictures before them could have. Precondition: oldest_picture().
std::unique_ptr<Sequence> Scheduler::take_turn() {
  const auto next = tower_turns_.next(waiting_.begin(), waiting_.end(),
                                      [](const Owned& sequence) -> std::optional<uint64_t> {
                                        if (!sequence->needs_tower()) return std::nullopt;
                                        return sequence->request.caller;
                                      });
  for (auto at = waiting_.begin(); at != next; ++at) {
    if (!(*at)->needs_tower()) continue;
    std::swap((*at)->order, (*next)->order);
    std::swap(*at, *next);
  }
  Owned picture = take_waiting(*oldest_picture());
  tower_turns_.take(picture->request.caller);
  for (const Owned& sequence : waiting_) sequence->overtaken = 0;
  return picture;
}

void Scheduler::enter_tower() {
  if (in_tower_ || queued_pictures_.size == 0) return;
  if (oldest_picture() == nullptr) {
    blame_a_reader([](const Sequence& sequence) { return sequence.features_ready; });
    return;
  }
  in_tower_ = take_turn();
  start(*in_tower_);
  in_tower_->state = SequenceState::kEncoding;
  ++features_held_;
}

void Scheduler::plan_vision(Plan& plan) {
  if (!in_tower_) return;
  const int begin = in_tower_->vision_layers_done;
  const int slices = plan.chunks.empty() ? kIdleSlices : 1;
  const int64_t wanted = int64_t{slices} * vision_pacer_.layers();
  const int count = static_cast<int>(std::min<int64_t>(config_.vision_layers - begin, wanted));
  plan.vision.push_back({in_tower_.get(), begin, count, begin + count == config_.vision_layers});
}

void Scheduler::plan_chunk(Plan& plan, int& rows, Sequence& sequence) const {
  const int pending = sequence.pending_tokens();
  const int count = std::min(rows, pending);
  plan.chunks.push_back({&sequence, sequence.num_computed, count, count == pending});
  rows -= count;
}

// --- blocks --------------------------------------------------------------------------------------

int Scheduler::max_blocks(const Sequence& sequence) const {
  return blocks_for(sequence.max_kv_tokens(), config_.block_size);
}

int Scheduler::blocks_to_start(const Sequence& sequence) const {
  return pinned(sequence) ? max_blocks(sequence)
                          : blocks_for(sequence.total_tokens(), config_.block_size);
}

// Whether `sequence` may start now. Sequences whose readers lag are preempted for it if that helps.
bool Scheduler::make_room(const Sequence& sequence) {
  const int needed = spare_blocks(sequence) + blocks_to_start(sequence);
  int idle_seats = config_.max_num_seqs - static_cast<int>(running_.size());
  int idle_blocks = blocks_.num_free();
  if (idle_seats > 0 && idle_blocks >= needed) return true;
  for (const Owned& other : running_) {
    if (!other->paused || pinned(*other)) continue;
    ++idle_seats;
    idle_blocks += static_cast<int>(other->block_table.size());
  }
  if (idle_seats <= 0 || idle_blocks < needed) return false;
  do {
    preempt(*youngest_paused());
  } while (static_cast<int>(running_.size()) >= config_.max_num_seqs ||
           blocks_.num_free() < needed);
  return true;
}

// Blocks that must stay free when `sequence` starts: one for each running sequence that may grow,
// or the share of its growth that experience asks for; if it will be pinned, all that the older
// ones may still need, for they cannot take them back.
int Scheduler::spare_blocks(const Sequence& sequence) const {
  int spare = 0;
  for (const Owned& other : running_) {
    if (other->paused) continue;
    const int growth = max_blocks(*other) - static_cast<int>(other->block_table.size());
    const int expected = static_cast<int>(growth_reserve_ * growth);
    const int watermark = std::max(expected, std::min(growth, 1));
    spare += pinned(sequence) && other->order < sequence.order ? growth : watermark;
  }
  return spare;
}

// Makes sure that the next token of a decoding sequence has a slot. False: it sits this step out.
bool Scheduler::grow(Sequence& sequence) {
  const int needed = blocks_for(sequence.num_computed + 1, config_.block_size);
  if (static_cast<int>(sequence.block_table.size()) >= needed) return true;
  if (blocks_.num_free() == 0) {
    Sequence* const victim = victim_of(sequence);
    if (victim == nullptr) return false;
    preempt(*victim);
    growth_reserve_ += (1 - growth_reserve_) / 8;
  }
  sequence.block_table.push_back(blocks_.allocate());
  return true;
}

Sequence* Scheduler::youngest_paused() const {
  const auto found = std::find_if(running_.rbegin(), running_.rend(), [](const Owned& other) {
    return other->paused && !pinned(*other);
  });
  return found == running_.rend() ? nullptr : found->get();
}

// Who loses its blocks so that `sequence` can go on, or null. Nobody younger than it is planned
// yet.
Sequence* Scheduler::victim_of(const Sequence& sequence) const {
  if (Sequence* const paused = youngest_paused()) return paused;
  const auto found = std::find_if(running_.rbegin(), running_.rend(),
                                  [](const Owned& other) { return !pinned(*other); });
  return found != running_.rend() && (*found)->order > sequence.order ? found->get() : nullptr;
}

void Scheduler::preempt(Sequence& sequence) {
  release_blocks(sequence);
  sequence.num_computed = 0;
  sequence.state = SequenceState::kWaiting;
  ++sequence.preemptions;
  ++preemptions_;
  const auto at = std::find_if(running_.begin(), running_.end(),
                               [&](const Owned& other) { return other.get() == &sequence; });
  insert_in_order(waiting_, std::move(*at));
  running_.erase(at);
}

void Scheduler::release_blocks(Sequence& sequence) {
  for (const int32_t block : sequence.block_table) blocks_.release(block);
  sequence.block_table.clear();
}

// --- moving on -----------------------------------------------------------------------------------

std::unique_ptr<Sequence> Scheduler::take_waiting(const Sequence& wanted) {
  const auto at = std::find_if(waiting_.begin(), waiting_.end(),
                               [&](const Owned& other) { return other.get() == &wanted; });
  Owned sequence = std::move(*at);
  waiting_.erase(at);
  return sequence;
}

void Scheduler::start_running(const Sequence& next) {
  Owned sequence = take_waiting(next);
  start(*sequence);
  const int blocks = blocks_to_start(*sequence);
  while (static_cast<int>(sequence->block_table.size()) < blocks) {
    sequence->block_table.push_back(blocks_.allocate());
  }
  sequence->state = SequenceState::kRunning;
  insert_in_order(running_, std::move(sequence));
}

void Scheduler::leave_queue(const Sequence& sequence) {
  --(sequence.has_image() ? queued_pictures_ : queued_texts_).size;
  queue_.remove(sequence.request.caller, sequence.queue_bytes());
}

void Scheduler::start(Sequence& sequence) {
  if (sequence.started()) return;
  leave_queue(sequence);
  sequence.scheduled = now_;
  Queue& queue = sequence.has_image() ? queued_pictures_ : queued_texts_;
  const auto passed = static_cast<int>(queue.starts++ - sequence.starts_before);
  queue.wait.observe(std::max(sequence.ahead, passed), now_ - sequence.submitted);
}

void Scheduler::finish_vision(const VisionWork& work) {
  Sequence& sequence = *work.sequence;
  sequence.vision_layers_done = work.begin + work.count;
  if (!work.last) return;
  sequence.features_ready = true;
  sequence.encoded = now_;
  std::vector<float>().swap(sequence.request.pixels);  // megabytes that nobody reads again
  sequence.state = SequenceState::kWaiting;
  insert_in_order(waiting_, std::move(in_tower_));
}

bool Scheduler::idle() const { return waiting_.empty() && running_.empty() && !in_tower_; }

SchedulerStats Scheduler::stats() const {
  SchedulerStats stats;
  stats.waiting = static_cast<int>(waiting_.size());
  stats.running = static_cast<int>(running_.size()) + (in_tower_ ? 1 : 0);
  stats.blocks_total = blocks_.num_blocks();
  stats.blocks_used = stats.blocks_total - blocks_.num_free();
  stats.preemptions = preemptions_;
  stats.steps = steps_;
  return stats;
}

}  // namespace cogserve
