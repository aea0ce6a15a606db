// What both chat methods' reactors have in common: they carry one Call, and end with it.
//
// `Base` is gRPC's reactor class. Made by the chat service for an accepted call; deletes itself
// when gRPC is done with it.
#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <memory>
#include <utility>

#include "server/access/caller_quota.hpp"
#include "server/access/peer_counter.hpp"
#include "server/active_calls.hpp"
#include "server/call.hpp"
#include "server/grpc_status.hpp"

namespace cogserve {

template <typename Base>
class CallReactor : public Base, public CallTransport {
 public:
  CallReactor(grpc::CallbackServerContext* context, ActiveCalls* active, PeerCounter* cancels,
              CallerQuota::Place place)
      : context_(context), active_(active), cancels_(cancels), place_(std::move(place)) {}

  // `call` was made with this transport. It counts as active from here on.
  void carry(std::shared_ptr<Call> call) {
    call_ = std::move(call);
    active_->add(this);
  }

  Call& call() final { return *call_; }
  void reset() final {
    reset_ = true;
    context_->TryCancel();
  }

  void OnCancel() final {
    const Clock::time_point now = Clock::now();
    if (call_->on_client_gone(now) && !reset_) cancels_->count(context_->peer(), now);
  }

  void OnDone() final {
    free_place();
    active_->remove(this);
    delete this;
  }

 protected:
  // To be called before the end goes out: a caller may come again as soon as it has it.
  void free_place() { place_ = {}; }

  grpc::Status failure(const absl::Status& status) {
    return fail_call(status, call_->request_id(), context_);
  }

 private:
  grpc::CallbackServerContext* const context_;
  ActiveCalls* const active_;
  PeerCounter* const cancels_;
  CallerQuota::Place place_;  // the caller's
  std::atomic<bool> reset_{false};
  std::shared_ptr<Call> call_;
};

}  // namespace cogserve
