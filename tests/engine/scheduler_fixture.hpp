// A Scheduler on a table: requests in a line, steps by hand, plans as text.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/error.hpp"
#include "engine/schedule/scheduler.hpp"

namespace cogserve {

class SchedulerTest : public ::testing::Test {
 protected:
  using Ms = std::chrono::milliseconds;

  struct Ask {
    int text = 3;   // the prompt has one token more, BOS
    int image = 0;  // tokens with boi and eoi
    int max_tokens = 4;
    int capacity = 1000;
    Clock::time_point deadline = Clock::time_point::max();
    std::vector<int32_t> stop_ids = {};
    bool ignore_eos = false;
    size_t pixels = 0;
    Clock::time_point first_token_by = Clock::time_point::max();
    uint64_t caller = 0;
    Clock::duration waited{0};
  };

  // A request that outlives its sequence.
  struct Asked {
    uint64_t id = 0;
    Sequence* sequence = nullptr;  // while the scheduler has it
    std::shared_ptr<TokenStream> stream;
    absl::Status refusal = absl::OkStatus();
  };

  SchedulerTest() {
    config.num_blocks = 64;
    config.block_size = 4;
    config.max_model_len = 200;
    config.max_num_seqs = 8;
    config.max_num_batched_tokens = 16;
    config.vision_layers = 6;
    config.vision_layers_per_step = 1;
  }

  Scheduler& scheduler() {
    if (!scheduler_) scheduler_.emplace(config);
    return *scheduler_;
  }

  Asked ask(const Ask& what) {
    auto sequence = std::make_unique<Sequence>();
    Asked asked;
    asked.id = sequence->id = next_id_++;
    const std::vector<int32_t> text(what.text, 500);
    sequence->layout = make_token_layout(1, 2, what.image, text);
    sequence->request.max_tokens = what.max_tokens;
    sequence->request.deadline = what.deadline;
    sequence->request.first_token_by = what.first_token_by;
    sequence->request.caller = what.caller;
    sequence->request.waited = what.waited;
    sequence->request.stop_token_ids = what.stop_ids;
    sequence->request.ignore_eos = what.ignore_eos;
    sequence->request.pixels.resize(what.pixels);
    sequence->stream = asked.stream = std::make_shared<TokenStream>(what.capacity);
    asked.sequence = sequence.get();
    asked.refusal = scheduler().add(std::move(sequence), now);
    return asked;
  }

  // The open plan, as text: "v1[0,2) 3:7+1s 1:0+4" is two tower layers for request 1, a row of
  // request 3 at index 7 that samples, and four rows of request 1 from index 0.
  std::string plan() {
    plan_ = scheduler().schedule(now);
    std::string text;
    for (const VisionWork& work : plan_.vision) {
      text += "v" + std::to_string(work.sequence->id) + "[" + std::to_string(work.begin) + "," +
              std::to_string(work.begin + work.count) + (work.last ? "] " : ") ");
    }
    for (const ChunkWork& chunk : plan_.chunks) {
      text += std::to_string(chunk.sequence->id) + ":" + std::to_string(chunk.begin) + "+" +
              std::to_string(chunk.count) + (chunk.samples ? "s " : " ");
    }
    if (!text.empty()) text.pop_back();
    return text;
  }

  // Every sampled token is `token`.
  void commit(int32_t token = 42, bool finite = true) {
    std::vector<SampledToken> sampled;
    for (const ChunkWork& chunk : plan_.chunks) {
      if (!chunk.samples) continue;
      sampled.emplace_back();
      sampled.back().id = token;
      sampled.back().finite = finite;
    }
    scheduler().commit(plan_, sampled, now);
  }

  std::string step(int32_t token = 42, Ms after = Ms(1)) {
    now += after;
    const std::string text = plan();
    commit(token);
    return text;
  }

  void steps(int count, Ms each = Ms(1)) {
    for (int i = 0; i < count; ++i) step(42, each);
  }

  void step_while(const std::function<bool()>& holds, std::string* plans = nullptr) {
    for (int i = 0; holds(); ++i) {
      ASSERT_LT(i, 20000) << "waits for what does not happen";
      const std::string text = step();
      if (plans != nullptr) *plans += text + "\n";
    }
  }

  // Loses its seat to a newcomer, and its reader catches up, again and again. Its box takes one
  // token and is full.
  void preempt_until_pinned(const Asked& lagging) {
    for (int i = 1; i <= Scheduler::kMaxPreemptions; ++i) {
      ask({.text = 0, .max_tokens = 1});
      step();
      EXPECT_EQ(lagging.sequence->preemptions, i);
      drain(lagging);
      step();
    }
  }

  // Takes a token every 20 ms from a box that is full, until the request ends.
  void read_slowly(const Asked& asked, int times) {
    for (int i = 0; i < times && asked.sequence->state != SequenceState::kFinished; ++i) {
      now += Ms(20);
      asked.stream->pop();
      steps(3);  // it goes on, is full again, and is found to be so
    }
  }

  // Tokens of a stream, then its end if it has come.
  static std::optional<EndEvent> drain(const Asked& asked, std::vector<int32_t>* ids = nullptr) {
    std::optional<EndEvent> end;
    while (const auto event = asked.stream->pop()) {
      EXPECT_FALSE(end.has_value()) << "an event after the end";
      if (const auto* token = std::get_if<TokenEvent>(&*event)) {
        if (ids != nullptr) ids->push_back(token->token.id);
      } else {
        end = std::get<EndEvent>(*event);
      }
    }
    return end;
  }

  // "CANCELLED" and the like; "ok" for a good end, "" for none.
  static std::string end_reason(const Asked& asked) {
    const auto end = drain(asked);
    if (!end.has_value()) return "";
    return end->status.ok() ? "ok" : error_reason(end->status);
  }

  int free_blocks() { return scheduler().blocks().num_free(); }

  void expect_at_rest() {
    EXPECT_TRUE(scheduler().idle());
    EXPECT_EQ(free_blocks(), config.num_blocks);
    EXPECT_EQ(scheduler().stats().waiting, 0);
    EXPECT_EQ(scheduler().stats().running, 0);
  }

  SchedulerConfig config;
  Clock::time_point now{std::chrono::hours(1)};
  Plan plan_;

 private:
  std::optional<Scheduler> scheduler_;
  uint64_t next_id_ = 1;
};

}  // namespace cogserve
