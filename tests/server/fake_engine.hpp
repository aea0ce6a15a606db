// An engine without a model, for tests of everything above it: token i of a request is a
// pseudo-random function of its prompt, so a client can check each token it gets.
//
// Honest about the contract of engine.hpp: what can never fit is refused at once; its own thread,
// one token a sequence a step, a full stream is not fed, cancels and deadlines end a sequence
// within one step, one end for each stream.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "engine/engine.hpp"

namespace cogserve {

// What a block of its cache takes of EngineConfig::kv_cache_bytes: 16 tokens.
constexpr size_t kFakeBlockBytes = 512;

// What each end says of its request's stages.
constexpr RequestTimings kFakeTimings{.queue = std::chrono::milliseconds(1),
                                      .vision = std::chrono::milliseconds(2),
                                      .prefill = std::chrono::milliseconds(3),
                                      .decode = std::chrono::milliseconds(4)};

class FakeEngine final : public Engine {
 public:
  explicit FakeEngine(const EngineConfig& config = {});
  ~FakeEngine() override;

  absl::StatusOr<std::shared_ptr<TokenStream>> submit(Request request) override;
  absl::Status check_room(uint64_t caller, size_t bytes) const override;
  const EngineInfo& info() const override { return info_; }
  EngineStats stats() const override;
  Clock::duration silence() const override;
  bool healthy() const override;

  // --- controls, from any thread -----------------------------------------------------------------
  // While paused only `allow_steps` steps with something to run are taken; cancels and deadlines
  // still work.
  void pause();
  void allow_steps(int steps);
  void resume();
  // Requests from here on get these tokens and then an end token.
  void set_script(std::vector<int32_t> tokens);
  // Ends what runs with `status`.
  void fail_running(absl::Status status);
  void refuse_submissions(absl::Status status);
  // Room for texts alone.
  void refuse_pictures(absl::Status status);
  void set_healthy(bool healthy);
  // What `silence` says from here on.
  void set_silence(Clock::duration silence);

  // --- events to wait for ------------------------------------------------------------------------
  void wait_until_running(int sequences);
  void wait_until_idle() { wait_until_running(0); }
  void wait_until_submitted(int requests);

  int submitted() const;
  // The newest one accepted, without its pixels.
  Request last_request() const;
  uint64_t last_room_asker() const;  // for whom check_room was asked
  uint64_t tokens_sampled() const;

 private:
  struct Sequence {
    Request request;
    bool picture = false;
    std::optional<std::vector<int32_t>> script;
    std::shared_ptr<TokenStream> stream;
    int sampled = 0;
    Clock::time_point full_since = Clock::time_point::max();
  };

  int image_tokens(bool picture) const;
  int prompt_tokens(const Request& request, bool picture) const;
  void loop();
  // One step over all sequences, with `mutex_` held; true if anything happened.
  bool step(bool may_sample);
  // The reason why a sequence ends now, if it does.
  bool ends_early(Sequence* sequence, Clock::time_point now, absl::Status* status) const;
  void sample(Sequence* sequence);
  void end(const Sequence& sequence, const absl::Status& status, FinishReason reason);

  const EngineConfig config_;
  EngineInfo info_;

  mutable std::mutex mutex_;  // guards all below
  std::condition_variable wake_;
  std::condition_variable changed_;
  std::deque<Sequence> running_;
  std::optional<std::vector<int32_t>> script_;
  absl::Status fail_status_;
  absl::Status refusal_;
  absl::Status picture_refusal_;
  Request last_request_;
  mutable uint64_t last_room_asker_ = 0;
  bool paused_ = false;
  int allowed_steps_ = 0;
  bool healthy_ = true;
  Clock::duration silence_{0};
  bool stopping_ = false;
  int submitted_ = 0;
  uint64_t steps_ = 0;
  uint64_t tokens_sampled_ = 0;
  bool poked_ = false;  // a reader has cancelled or made room

  std::thread thread_;  // last
};

// What token `index` of a request with this prompt is: a plain token of the demo model's
// vocabulary, never one of its end tokens.
int32_t fake_token(const std::vector<int32_t>& text_ids, bool picture, int index);

}  // namespace cogserve
