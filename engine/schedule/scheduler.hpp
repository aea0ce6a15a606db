// Decides what each step computes. Pure policy: no threads, no tensors, no clock of its own.
//
// Owned and called by the engine thread (or by a simulation). The three-call step:
//   plan = scheduler.schedule(now);  run the plan;  scheduler.commit(plan, sampled, now).
// A step can be planned before the tokens of the last one are known:
//   next = schedule(now);  start next;  commit(plan, sampled, now);  advance(&next).
//
// First come, first served. A step has a row for each sequence that decodes, then prefill chunks
// of the running ones, then of new ones, all oldest first, up to `max_num_batched_tokens`; beside
// them a slice of the vision tower, which has one picture at a time. A sequence starts when blocks
// for all its tokens are free, and beyond them at least one for each running sequence that still
// grows. When decoding finds no free block, sequences whose readers lag lose theirs first, then the
// youngest; they compute them anew later. One that lost them `kMaxPreemptions` times starts again
// only with every block it can ever need, and only if the older ones can do without: it is never
// preempted again.
//
// A caller of whom something runs starts nothing with which it would have more than half of the
// blocks, or of the `max_num_seqs` seats, while other callers' sequences, within their shares, wait
// for them: those go first. Else it starts in turn, whatever it needs, so a sequence is held back
// for no longer than others of its own caller run. At the tower callers take turns: it takes the
// oldest picture of the one whose last turn is longest ago, or who had none, and that picture
// changes places in the line with those that it passes.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "engine/backend/sampling.hpp"
#include "engine/base/sharing.hpp"
#include "engine/schedule/block_manager.hpp"
#include "engine/schedule/plan.hpp"
#include "engine/schedule/queue_state.hpp"
#include "engine/schedule/scheduler_config.hpp"
#include "engine/schedule/sequence.hpp"
#include "engine/schedule/vision_pacer.hpp"
#include "engine/schedule/wait_estimate.hpp"

namespace cogserve {

struct SchedulerStats {
  int waiting = 0;  // preempted ones included
  int running = 0;  // the one whose picture is in the tower included
  int blocks_used = 0;
  int blocks_total = 0;
  uint64_t preemptions = 0;
  uint64_t steps = 0;
};

class Scheduler {
 public:
  explicit Scheduler(SchedulerConfig config);

  // Takes the sequence into the queue, or refuses it: INVALID_ARGUMENT PARAM_RANGE (max_tokens),
  // CONTEXT_LENGTH or KV_NEVER_FITS; DEADLINE_EXCEEDED (it has passed);
  // RESOURCE_EXHAUSTED QUEUE_FULL, TENANT_QUOTA (its caller has its share of the queue) or
  // DEADLINE_UNMEETABLE (the queue alone would take longer), each with a retry delay. A refused
  // sequence's stream is left untouched: the caller reports the status. Ids must ascend.
  absl::Status add(std::unique_ptr<Sequence> sequence, Clock::time_point now);

  // First ends what is cancelled (CANCELLED), past its deadline or too long in the queue
  // (DEADLINE_EXCEEDED, the latter QUEUE_TIMEOUT), or has too slow a reader (RESOURCE_EXHAUSTED
  // SLOW_READER: one long pause, or as much in all while somebody waits for a picture's place or
  // for blocks that it holds); then plans the step. An empty plan means there is nothing that can
  // run now, and needs no commit; of any other every piece of work is committed or failed, in one
  // call or in parts (`split`), or it is advanced or retracted, or fail_all is called, before the
  // next schedule().
  Plan schedule(Clock::time_point now);

  // `sampled` holds one entry for each chunk of the plan that samples, in order. Appends tokens,
  // pushes them to the streams (an end or stop token too), ends sequences that are done and frees
  // their blocks. A token that is not finite ends its sequence with INTERNAL NUMERIC_FAULT.
  void commit(const Plan& plan, std::span<const SampledToken> sampled, Clock::time_point now);

  // The plan's work was started and its tokens were drawn, but they are not known yet: schedule()
  // goes on from where it will end, and the plan is committed (whole) before the next one advances.
  // What ends meanwhile ends at once: its token is dropped. Precondition: can_advance(*plan), and
  // no other plan is advanced.
  void advance(Plan* plan);
  // The plan's work, started or not, does not count: it is planned anew. A picture starts again
  // from the tower's first layer.
  void retract(const Plan& plan);

  // Ends every sequence of the plan (a fault while it ran), or all sequences, with `status`. Those
  // that have ended already stay as they are.
  void fail(const Plan& plan, const absl::Status& status, Clock::time_point now);
  void fail_all(const absl::Status& status, Clock::time_point now);

  // Sequences ended since the last call: their features can be dropped. Handing over ends their
  // life.
  std::vector<std::unique_ptr<Sequence>> take_finished();

  bool idle() const;  // nothing waits or runs; ended sequences may still wait to be taken
  SchedulerStats stats() const;
  // Of what has not started yet.
  const QueueState& queue();
  const BlockManager& blocks() const { return blocks_; }
  // The earliest time at which schedule() has something to end although nothing else happens.
  Clock::time_point next_timeout() const;

  static constexpr int kMaxPreemptions = 3;
  // While the oldest picture waits for the tower alone, so many younger sequences start before the
  // tower takes the next picture, at most.
  static constexpr int kMaxOvertakes = 64;

 private:
  using Owned = std::unique_ptr<Sequence>;

  absl::Status check_queue(Sequence& sequence);
  int texts_ahead_of(const Sequence& newcomer) const;
  int pictures_ahead_of(const Sequence& newcomer) const;
  int max_blocks(const Sequence& sequence) const;
  int blocks_to_start(const Sequence& sequence) const;

  void end_overdue();
  absl::Status overdue(const Sequence& sequence) const;
  void watch_reader(Sequence& sequence) const;
  Clock::time_point reader_timeout(const Sequence& sequence) const;
  void blame_a_reader(bool (*holds)(const Sequence&));

  void plan_decoding(Plan& plan, int& rows);
  void plan_prefill(Plan& plan, int& rows);
  void admit(Plan& plan, int& rows);
  Sequence* next_to_start() const;
  bool exceeds_share(const Sequence& sequence) const;
  void plan_vision(Plan& plan);
  void plan_chunk(Plan& plan, int& rows, Sequence& sequence) const;

  bool make_room(const Sequence& sequence);
  int spare_blocks(const Sequence& sequence) const;
  bool grow(Sequence& sequence);
  Sequence* victim_of(const Sequence& sequence) const;
  Sequence* youngest_paused() const;
  void preempt(Sequence& sequence);
  void release_blocks(Sequence& sequence);

  Sequence* oldest_picture() const;
  Owned take_turn();
  void enter_tower();
  Owned take_waiting(const Sequence& wanted);
  void start_running(const Sequence& next);
  void start(Sequence& sequence);
  void leave_queue(const Sequence& sequence);
  void close(const Plan& plan);
  void observe_pace(const Plan& plan);
  void finish_vision(const VisionWork& work);
  void append(Sequence& sequence, const SampledToken& token);
  void end(Sequence& sequence, const absl::Status& status,
           FinishReason reason = FinishReason::kStop);
  void sweep();

  const SchedulerConfig config_;
  BlockManager blocks_;
  VisionPacer vision_pacer_;
  Clock::time_point now_ = kNever;        // never goes back, whatever the caller's clock does
  Clock::time_point committed_ = kNever;  // when the last plan was
  uint64_t newest_id_ = 0;

  // Each in line (by `order`).
  std::deque<Owned> waiting_;
  std::vector<Owned> running_;
  Owned in_tower_;  // or nobody
  CallerTurns tower_turns_;
  std::vector<Owned> finished_;  // not taken yet
  bool any_ended_ = false;       // some sequence above is finished and not swept yet
  size_t open_work_ = 0;         // pieces that are planned, and nothing was said of them since
  size_t advanced_work_ = 0;     // pieces of the plan that was advanced

  // Of `waiting_`: those that have not started. Pictures wait for the tower and let texts pass, so
  // that each kind has a pace of its own.
  struct Queue {
    int size = 0;
    uint64_t starts = 0;  // until now
    WaitEstimate wait = {};
  };
  Queue queued_texts_;
  Queue queued_pictures_;
  QueueState queue_;  // of both

  // Share of the running sequences' possible growth that a start leaves free, in [0, 1): grows when
  // blocks run out, fades as sequences end. Keeps preemption rare whatever max_tokens callers ask.
  double growth_reserve_ = 0;
  uint64_t in_the_way_ = 0;  // a sequence whose slow reader keeps somebody from starting, or 0
  int features_held_ = 0;    // sequences whose picture is in the tower or encoded
  uint64_t preemptions_ = 0;
  uint64_t steps_ = 0;
};

}  // namespace cogserve
