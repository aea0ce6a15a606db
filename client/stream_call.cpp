#include "client/stream_call.hpp"

#include <utility>

#include "client/status_details.hpp"

namespace cogserve::client {

void StreamCall::start(v1::CogServe::StubInterface* stub, const ChatRequest& request,
                       const CallSetup& setup, DeltaCallback on_delta, DoneCallback on_done,
                       std::shared_ptr<Cancellation> cancellation) {
  auto* call = new StreamCall(std::move(on_delta), std::move(on_done), std::move(cancellation));
  write_request(request, &call->request_);
  setup.apply(&call->context_);
  if (call->cancellation_) {
    call->cancellation_->attach([call] { call->context_.TryCancel(); });
  }
  stub->async()->StreamChat(&call->context_, &call->request_, call);
  call->StartRead(&call->response_);
  call->StartCall();
}

StreamCall::StreamCall(DeltaCallback on_delta, DoneCallback on_done,
                       std::shared_ptr<Cancellation> cancellation)
    : on_delta_(std::move(on_delta)),
      on_done_(std::move(on_done)),
      cancellation_(std::move(cancellation)) {}

void StreamCall::OnReadDone(bool ok) {
  if (!ok) return;
  if (const Delta* delta = builder_.add(response_)) on_delta_(*delta);
  StartRead(&response_);
}

void StreamCall::OnDone(const grpc::Status& status) {
  if (cancellation_) cancellation_->detach();
  const DoneCallback on_done = std::move(on_done_);
  Result<Answer> answer = status.ok() ? builder_.take() : Result<Answer>(to_error(status));
  // The caller may close the connection as soon as it knows: by then nothing of the call is left.
  delete this;
  on_done(std::move(answer));
}

}  // namespace cogserve::client
