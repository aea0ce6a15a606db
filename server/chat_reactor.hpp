// The unary method's gRPC side: pieces gather in the response, the status sends it.
#pragma once

#include "server/call_reactor.hpp"

namespace cogserve {

class ChatReactor final : public CallReactor<grpc::ServerUnaryReactor> {
 public:
  ChatReactor(grpc::CallbackServerContext* context, grpc::ByteBuffer* response, ActiveCalls* active,
              PeerCounter* cancels, CallerQuota::Place place)
      : CallReactor(context, active, cancels, std::move(place)), response_bytes_(response) {}

  void write(v1::Delta* delta) override;
  void finish(const absl::Status& status, const v1::Final& final) override;
  bool delivers() const override { return false; }

 private:
  grpc::ByteBuffer* const response_bytes_;
  v1::ChatResponse response_;
};

}  // namespace cogserve
