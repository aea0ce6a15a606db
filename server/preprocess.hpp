// From a checked request to a running sequence: picture, prompt text, tokens, Engine::submit.
//
// A pool of its own threads behind a bounded queue, where callers take turns, so that neither RPC
// threads nor the engine decode pictures. Owned by the ServedModel.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/base/sharing.hpp"
#include "engine/engine.hpp"
#include "server/request_validation.hpp"
#include "server/text/tokenizer.hpp"

namespace cogserve {

struct PreprocessLimits {
  int threads = 2;
  int max_queued_pictures = 32;
  int max_queued_texts = 256;
};

// A request that the engine has accepted.
struct Submission {
  std::shared_ptr<TokenStream> stream;
  std::chrono::nanoseconds image_decode{0};
};

struct PreprocessJob {
  CheckedRequest request;
  uint64_t caller = 0;         // as in Request
  Clock::time_point queued{};  // set by submit
  Clock::time_point deadline = Clock::time_point::max();
  Clock::time_point first_token_by = Clock::time_point::max();
  // Asked before the job starts, under the pool's lock, and between its stages.
  std::function<bool()> cancelled;
  // Called exactly once, on a thread of the pool (or of its destruction).
  std::function<void(absl::StatusOr<Submission>)> done;
};

class Preprocessor {
 public:
  // `engine` and `tokenizer` outlive it. `seed` 0: requests that bring none get unpredictable ones.
  Preprocessor(Engine* engine, const text::Tokenizer* tokenizer, const RequestLimits& limits,
               uint64_t seed, const PreprocessLimits& pool);
  // Ends what is queued with CANCELLED.
  ~Preprocessor();

  // Does not block. RESOURCE_EXHAUSTED DECODE_QUEUE, QUEUE_FULL or TENANT_QUOTA (the caller has its
  // queue_share), with the time after which to try again; then `done` is not called.
  absl::Status submit(PreprocessJob job);

 private:
  void work();
  static absl::Status check_alive(const PreprocessJob& job);
  absl::StatusOr<Submission> process(const PreprocessJob& job);
  absl::StatusOr<Submission> prepare(const PreprocessJob& job);
  absl::StatusOr<int> resolve_max_tokens(const CheckedRequest& request, int prompt_tokens) const;
  absl::Status check_room(const PreprocessJob& job);  // under the mutex
  uint64_t fresh_seed();

  Engine* const engine_;
  const text::Tokenizer* const tokenizer_;
  const RequestLimits limits_;
  const PreprocessLimits pool_;
  const uint64_t base_seed_;
  std::atomic<uint64_t> seeds_drawn_{0};

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<PreprocessJob> queue_;
  CallerTurns turns_;
  uint64_t refused_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace cogserve
