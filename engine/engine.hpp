// The engine: requests in, token streams out. The one door between `server/` and everything below.
//
// One thread of its own owns scheduler, sequences, KV cache and backend and runs one loop: take
// new requests, schedule, run, commit. Others reach it through two mailboxes only: the inbox
// behind `submit` and the TokenStream of each request.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/config.hpp"
#include "engine/request.hpp"
#include "engine/token_stream.hpp"

namespace cogserve {

// What was loaded, for banners and GetModel.
struct EngineInfo {
  ModelConfig model;
  GenerationConfig generation;
  std::string device;      // "cpu (avx2, 2 threads)"
  std::string dtype;       // of the weights: "bf16", or "decoder int4, vision int8, else bf16"
  std::string weights;     // how they are stored: "cogserve int4: 448 matrices; dense: 67"
  std::string rope_dtype;  // resolved: "bf16" or "f32"
  int max_model_len = 0;
  int block_size = 0;
  int num_blocks = 0;
  size_t weight_bytes = 0;
  size_t kv_bytes = 0;
  // Numbers of sequences whose first steps together cost more than later ones, ascending: a device
  // that works ahead chooses and records what it does for each.
  std::vector<int> decode_batches = {};

  int64_t kv_tokens() const { return int64_t{num_blocks} * block_size; }
};

// A snapshot, at most one step old.
struct EngineStats {
  int waiting = 0;
  int running = 0;
  int blocks_used = 0;
  int blocks_total = 0;
  uint64_t preemptions = 0;
  uint64_t steps = 0;
};

class Engine {
 public:
  // Called while loading with bytes done and bytes in all.
  using Progress = std::function<void(int64_t done, int64_t total)>;
  // Called on the engine thread with what a failed step threw, or what makes steps slow: for the
  // log, not for callers.
  using FaultLog = std::function<void(std::string_view what)>;

  // Loads the model and starts the engine thread. Blocks; a failure names file, tensor, expected
  // and actual. FAILED_PRECONDITION / DEVICE if the device fails meanwhile.
  static absl::StatusOr<std::unique_ptr<Engine>> create(const EngineConfig& config,
                                                        const Progress& progress,
                                                        FaultLog fault_log = nullptr);

  // Ends everything that is still running with CANCELLED and joins the thread.
  virtual ~Engine() = default;

  // From any thread, does not block. What can be refused at once is refused here:
  // INVALID_ARGUMENT CONTEXT_LENGTH, KV_NEVER_FITS, TOKEN_ID_RANGE or IMAGE_SHAPE,
  // RESOURCE_EXHAUSTED QUEUE_FULL or TENANT_QUOTA, UNAVAILABLE ENGINE_STOPPED or ENGINE_RESTARTING.
  // Else the stream ends exactly once.
  virtual absl::StatusOr<std::shared_ptr<TokenStream>> submit(Request request) = 0;

  // What `submit` would say of the queue now, of a request of `caller` (as in Request) with so many
  // `bytes` of pixels: for those that have not spent anything on it yet. RESOURCE_EXHAUSTED
  // QUEUE_FULL or TENANT_QUOTA.
  virtual absl::Status check_room(uint64_t caller, size_t bytes) const = 0;

  virtual const EngineInfo& info() const = 0;
  virtual EngineStats stats() const = 0;

  // How long the running step has shown no progress; zero between steps. A step that hangs is for
  // the process to notice: the engine thread cannot.
  virtual Clock::duration silence() const = 0;

  // False after a fault that the engine cannot recover from: health turns NOT_SERVING.
  virtual bool healthy() const = 0;
};

}  // namespace cogserve
