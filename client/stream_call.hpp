// One streamed answer in flight on gRPC's callback threads. Owns itself: deletes itself after the
// last callback.
#pragma once

#include <functional>
#include <memory>

#include "client/call_setup.hpp"
#include "client/cancellation.hpp"
#include "client/error.hpp"
#include "client/types.hpp"
#include "client/wire.hpp"
#include "cogserve/v1/cogserve.grpc.pb.h"

namespace cogserve::client {

class StreamCall final : public grpc::ClientReadReactor<v1::StreamChatResponse> {
 public:
  using DeltaCallback = std::function<void(const Delta&)>;
  using DoneCallback = std::function<void(Result<Answer>)>;

  // `stub` must live until `on_done` has been called.
  static void start(v1::CogServe::StubInterface* stub, const ChatRequest& request,
                    const CallSetup& setup, DeltaCallback on_delta, DoneCallback on_done,
                    std::shared_ptr<Cancellation> cancellation);

 private:
  StreamCall(DeltaCallback on_delta, DoneCallback on_done,
             std::shared_ptr<Cancellation> cancellation);

  void OnReadDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

  grpc::ClientContext context_;
  v1::ChatRequest request_;
  v1::StreamChatResponse response_;
  AnswerBuilder builder_;
  DeltaCallback on_delta_;
  DoneCallback on_done_;
  std::shared_ptr<Cancellation> cancellation_;
};

}  // namespace cogserve::client
