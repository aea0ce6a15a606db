// The streaming method's gRPC side: one outstanding write, then the final message and the status.
#pragma once

#include "server/call_reactor.hpp"

namespace cogserve {

class GenerateReactor final : public CallReactor<grpc::ServerWriteReactor<grpc::ByteBuffer>> {
 public:
  using CallReactor::CallReactor;

  void write(v1::Delta* delta) override;
  void finish(const absl::Status& status, const v1::Final& final) override;
  bool delivers() const override { return true; }
  void OnWriteDone(bool ok) override;

 private:
  // An empty message; the first one carries request_id and model.
  void begin_message();

  v1::StreamChatResponse message_;
  grpc::ByteBuffer bytes_;  // of the message in flight: gRPC reads them until OnWriteDone
  bool named_ = false;
};

}  // namespace cogserve
