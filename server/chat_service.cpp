#include "server/chat_service.hpp"

#include <algorithm>
#include <memory>
#include <utility>

#include "server/chat_reactor.hpp"
#include "server/generate_reactor.hpp"
#include "server/grpc_status.hpp"
#include "server/message_bytes.hpp"

namespace cogserve {
namespace {

// A stream that ends before it has begun.
class RefusedStream final : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  explicit RefusedStream(const grpc::Status& status) { Finish(status); }
  void OnDone() override { delete this; }
};

grpc::ServerUnaryReactor* finish_now(grpc::CallbackServerContext* context,
                                     const grpc::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(status);
  return reactor;
}

// The client's deadline on our clock, or `most` from now if it is nearer.
CallDeadline deadline_of(const grpc::CallbackServerContext& context,
                         std::chrono::milliseconds most) {
  const Clock::time_point now = Clock::now();
  const auto remaining = context.deadline() - std::chrono::system_clock::now();
  if (remaining >= most) return {now + most, true};
  return {now + std::chrono::duration_cast<Clock::duration>(remaining), false};
}

}  // namespace

ChatService::ChatService(const Readiness* readiness, ActiveCalls* active,
                         const ChatServiceOptions& options)
    : readiness_(readiness), active_(active), options_(options), cancels_(options.max_cancels) {}

absl::StatusOr<CheckedRequest> ChatService::accept(const grpc::CallbackServerContext& context,
                                                   const grpc::ByteBuffer* request) {
  if (absl::Status status = readiness_->admit(); !status.ok()) return status;
  if (absl::Status status = cancels_.check(context.peer(), Clock::now()); !status.ok()) {
    return status;
  }
  absl::StatusOr<v1::ChatRequest> message = take_request(request);
  if (!message.ok()) return message.status();
  return check_request(*std::move(message), model_.load(std::memory_order_acquire)->rules());
}

template <typename Reactor>
void ChatService::run(Reactor* reactor, const grpc::CallbackServerContext& context,
                      CheckedRequest request) {
  const auto call = std::make_shared<Call>(
      model_.load(std::memory_order_acquire), reactor, std::move(request),
      deadline_of(context, options_.max_request_time), options_.log_requests);
  reactor->carry(call);
  // A drain that began meanwhile may have found no call active before this one was.
  if (absl::Status status = readiness_->admit(); !status.ok()) {
    call->abort(std::move(status));
  } else {
    call->start();
  }
}

grpc::ServerUnaryReactor* ChatService::Chat(grpc::CallbackServerContext* context,
                                            const grpc::ByteBuffer* request,
                                            grpc::ByteBuffer* response) {
  absl::StatusOr<CheckedRequest> checked = accept(*context, request);
  if (!checked.ok()) return finish_now(context, fail_call(checked.status(), {}, context));
  auto* reactor = new ChatReactor(context, response, active_, &cancels_);
  run(reactor, *context, *std::move(checked));
  return reactor;
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* ChatService::StreamChat(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  absl::StatusOr<CheckedRequest> checked = accept(*context, request);
  if (!checked.ok()) return new RefusedStream(fail_call(checked.status(), {}, context));
  auto* reactor = new GenerateReactor(context, active_, &cancels_);
  run(reactor, *context, *std::move(checked));
  return reactor;
}

grpc::ServerUnaryReactor* ChatService::GetModel(grpc::CallbackServerContext* context,
                                                const v1::GetModelRequest* /*request*/,
                                                v1::Model* response) {
  // A draining server still knows what it serves.
  const ServedModel* model = model_.load(std::memory_order_acquire);
  if (model == nullptr) return finish_now(context, fail_call(readiness_->admit(), {}, context));
  *response = model->description();
  return finish_now(context, grpc::Status::OK);
}

}  // namespace cogserve
