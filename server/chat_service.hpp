// cogserve.v1.CogServe: refuses what cannot be served, and gives each accepted call its reactor.
//
// One for a server, owned by it. Handlers run on gRPC threads and do not block.
#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <chrono>

#include "cogserve/v1/cogserve.grpc.pb.h"
#include "server/access/callers.hpp"
#include "server/active_calls.hpp"
#include "server/call.hpp"
#include "server/readiness.hpp"
#include "server/request_validation.hpp"
#include "server/served_model.hpp"

namespace cogserve {

struct ChatServiceOptions {
  std::chrono::milliseconds max_request_time{300000};  // of a call, whatever its deadline
  std::chrono::milliseconds max_ttft{60000};           // until its first token; 0 = any time
  bool log_requests = false;
  int max_cancels = 100;  // of one connection in ten seconds; 0 = any number
};

// Chat and StreamChat as bytes (message_bytes.hpp).
using ChatServiceBase =
    v1::CogServe::WithRawCallbackMethod_Chat<v1::CogServe::WithRawCallbackMethod_StreamChat<
        v1::CogServe::WithCallbackMethod_GetModel<v1::CogServe::Service>>>;

class ChatService final : public ChatServiceBase {
 public:
  // `readiness`, `callers` and `active` outlive it.
  ChatService(const Readiness* readiness, Callers* callers, ActiveCalls* active,
              const ChatServiceOptions& options);

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
  // A call that may run.
  struct Accepted {
    std::string caller;
    CallerQuota::Place place;
    CheckedRequest request;
  };

  // `request_id`: the one that the request brought, if it is one.
  absl::StatusOr<Accepted> accept(const grpc::CallbackServerContext& context,
                                  const grpc::ByteBuffer* request, std::string* request_id);
  absl::Status check_cancels(const std::string& peer) const;
  absl::StatusOr<std::string> identify(const grpc::CallbackServerContext& context);
  // The reactor of a call that ends before it has begun.
  template <typename Base>
  Base* refuse(grpc::CallbackServerContext* context, const absl::Status& status,
               std::string_view request_id);
  // The reactor of a call: one that carries it, made by `make_reactor` for its place, or a refusal.
  template <typename Base, typename MakeReactor>
  Base* run(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
            const MakeReactor& make_reactor);
  void start(Call& call);

  const Readiness* const readiness_;
  Callers* const callers_;
  ActiveCalls* const active_;
  const ChatServiceOptions options_;
  PeerCounter cancels_;
  std::atomic<ServedModel*> model_{nullptr};
};

}  // namespace cogserve
