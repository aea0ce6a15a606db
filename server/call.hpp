// One Chat or StreamChat call from acceptance to its last byte, whatever carries it.
//
// A serial task: everything it does runs on the executor, one step at a time, woken by the engine
// (tokens), the preprocessor (a submission), gRPC (a write has gone out, the client has left) and
// the server (a drain that takes too long). Shared by those who may wake it; it finishes its
// transport exactly once and does not touch it after.
#pragma once

#include <atomic>
#include <mutex>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/generation.hpp"
#include "server/serial_executor.hpp"

namespace cogserve {

class Call;

struct CallDeadline {
  Clock::time_point at;
  bool is_servers;  // nearer than the client's: an end by it is REQUEST_TIMEOUT
  Clock::time_point first_token_by = Clock::time_point::max();
};

// The gRPC side. `write` and `finish` are called on the executor.
class CallTransport {
 public:
  virtual ~CallTransport() = default;

  // At most one write is under way: `Call::on_written` ends it.
  virtual void write(v1::Delta* delta) = 0;
  // The answer is complete, or has failed.
  virtual void finish(const absl::Status& status, const v1::Final& final) = 0;
  // Whether what was written is with the client, whatever comes after.
  virtual bool delivers() const = 0;
  // Drops the connection's interest in this call: for a client that takes nothing, not even errors.
  virtual void reset() = 0;
  virtual Call& call() = 0;
};

class Call final : public SerialTask {
 public:
  // `model` and `transport` outlive the call's finish. `log`: one line when it is done, which names
  // the caller.
  Call(ServedModel* model, CallTransport* transport, CheckedRequest request, CallDeadline deadline,
       std::string caller, bool log);

  // Hands the request to the preprocessor. Once.
  void start();

  // From any thread. The first reason counts; after the finish it has no effect.
  void abort(absl::Status reason);
  bool aborted() const { return aborted_.load(std::memory_order_acquire); }

  // The client has left: the call is aborted. False if its deadline is why: that is no cancelling.
  bool on_client_gone(Clock::time_point now);

  // The transport's write has gone out, or never will.
  void on_written(bool ok);

  // From any thread, now and then: aborts with SLOW_READER when a write takes longer than
  // `patience`, counted from `awake_since` at the earliest; true when it should be reset, because
  // even the end does not go out.
  bool check_stall(Clock::time_point now, Clock::time_point awake_since,
                   std::chrono::milliseconds patience);

  const std::string& request_id() const { return request_id_; }
  const std::string& model_name() const { return model_->name(); }

 protected:
  void step() override;

 private:
  void advance();
  void on_prepared(absl::StatusOr<Submission> submission);
  // Takes what the preprocessor has brought, if it has; an error ends the call.
  void take_submission();
  void deliver();
  absl::Status abort_reason() const;
  absl::Status name_time_limit(const absl::Status& status) const;
  void finish(const absl::Status& status, const v1::Final& final);
  void log_end(const absl::Status& status, const v1::Final& final) const;

  ServedModel* const model_;
  const std::string request_id_;
  const Clock::time_point received_;
  const CallDeadline deadline_;
  const std::string caller_;
  const bool log_;
  const OutputOptions output_;
  CheckedRequest request_;  // until `start`

  // The steps' own.
  CallTransport* transport_;  // null once finished
  std::optional<Generation> generation_;
  v1::Delta delta_;
  int tokens_written_ = 0;  // of which the transport has been given something

  // Shared with those who wake it.
  std::atomic<bool> aborted_{false};
  std::atomic<bool> writing_{false};
  std::atomic<Clock::time_point> write_began_{Clock::time_point()};
  mutable std::mutex mutex_;  // guards all below
  std::optional<absl::StatusOr<Submission>> submission_;
  absl::Status abort_reason_;
};

}  // namespace cogserve
