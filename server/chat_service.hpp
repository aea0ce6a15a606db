// cogserve.v1.CogServe: refuses what cannot be served, and gives each accepted call its reactor.
//
// One for a server, owned by it. Handlers run on gRPC threads and do not block.
#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <chrono>

#include "cogserve/v1/cogserve.grpc.pb.h"
#include "server/active_calls.hpp"
#include "server/cancel_budget.hpp"
#include "server/readiness.hpp"
#include "server/request_validation.hpp"
#include "server/served_model.hpp"

namespace cogserve {

struct ChatServiceOptions {
  std::chrono::milliseconds max_request_time{300000};  // of a call, whatever its deadline
  bool log_requests = false;
  int max_cancels = 100;  // of one connection in ten seconds; 0 = any number
};

// Chat and StreamChat as bytes (message_bytes.hpp).
using ChatServiceBase =
    v1::CogServe::WithRawCallbackMethod_Chat<v1::CogServe::WithRawCallbackMethod_StreamChat<
        v1::CogServe::WithCallbackMethod_GetModel<v1::CogServe::Service>>>;

class ChatService final : public ChatServiceBase {
 public:
  // `readiness` and `active` outlive it.
  ChatService(const Readiness* readiness, ActiveCalls* active, const ChatServiceOptions& options);

  // Once, before readiness turns to serving. `model` outlives the last call.
  void set_model(ServedModel* model) { model_.store(model, std::memory_order_release); }

  grpc::ServerUnaryReactor* Chat(grpc::CallbackServerContext* context,
                                 const grpc::ByteBuffer* request,
                                 grpc::ByteBuffer* response) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* StreamChat(grpc::CallbackServerContext* context,
                                                         const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const v1::GetModelRequest* request,
                                     v1::Model* response) override;

 private:
  absl::StatusOr<CheckedRequest> accept(const grpc::CallbackServerContext& context,
                                        const grpc::ByteBuffer* request);
  template <typename Reactor>
  void run(Reactor* reactor, const grpc::CallbackServerContext& context, CheckedRequest request);

  const Readiness* const readiness_;
  ActiveCalls* const active_;
  const ChatServiceOptions options_;
  CancelBudget cancels_;
  std::atomic<ServedModel*> model_{nullptr};
};

}  // namespace cogserve
