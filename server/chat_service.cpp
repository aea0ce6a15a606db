#include "server/chat_service.hpp"

#include <grpcpp/alarm.h>

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/error.hpp"
#include "server/access/tls_identity.hpp"
#include "server/chat_reactor.hpp"
#include "server/exception_status.hpp"
#include "server/generate_reactor.hpp"
#include "server/grpc_status.hpp"
#include "server/message_bytes.hpp"

namespace cogserve {
namespace {

constexpr std::chrono::seconds kCancelWindow{10};

// Ends a call before it has begun: at once, or for those who guess keys after a while.
template <typename Base>
class Refusal final : public Base {
 public:
  Refusal(grpc::Status status, std::chrono::milliseconds delay) : status_(std::move(status)) {
    if (delay.count() == 0) {
      this->Finish(status_);
    } else {
      alarm_.Set(std::chrono::system_clock::now() + delay, [this](bool) { this->Finish(status_); });
    }
  }

  void OnCancel() override { alarm_.Cancel(); }
  void OnDone() override { delete this; }

 private:
  const grpc::Status status_;
  grpc::Alarm alarm_;
};

// The client's deadline on our clock, or the server's if that is nearer.
CallDeadline deadline_of(const grpc::CallbackServerContext& context,
                         const ChatServiceOptions& options) {
  const Clock::time_point now = Clock::now();
  CallDeadline deadline{now + options.max_request_time, true};
  if (options.max_ttft.count() > 0) deadline.first_token_by = now + options.max_ttft;
  const auto remaining = context.deadline() - std::chrono::system_clock::now();
  if (remaining < options.max_request_time) {
    deadline.at = now + std::chrono::duration_cast<Clock::duration>(remaining);
    deadline.is_servers = false;
  }
  return deadline;
}

}  // namespace

ChatService::ChatService(const Readiness* readiness, Callers* callers, ActiveCalls* active,
                         const ChatServiceOptions& options)
    : readiness_(readiness),
      callers_(callers),
      active_(active),
      options_(options),
      cancels_(options.max_cancels, kCancelWindow) {}

absl::StatusOr<std::string> ChatService::identify(const grpc::CallbackServerContext& context) {
  Credentials credentials;
  credentials.peer = context.peer();
  const auto [begin, end] = context.client_metadata().equal_range("authorization");
  for (auto it = begin; it != end; ++it) {
    credentials.authorization.emplace_back(it->second.data(), it->second.size());
  }
  const auto tls = context.auth_context();
  if (tls->IsPeerAuthenticated()) {
    const grpc::string_ref name = tls->GetPeerIdentity().front();
    credentials.certificate = std::string(name.data(), name.size());
    credentials.certificate_names = certificate_names(*tls);
  }
  return callers_->identify(credentials, Clock::now());
}

absl::Status ChatService::check_cancels(const std::string& peer) const {
  const auto excess = cancels_.excess(peer, Clock::now());
  if (!excess.has_value()) return absl::OkStatus();
  return with_limit(with_retry_delay(make_error(absl::StatusCode::kResourceExhausted, "CANCEL_RATE",
                                                "", "this connection cancels too many calls"),
                                     excess->left),
                    absl::StrCat(options_.max_cancels, " in ", kCancelWindow.count(), " s"),
                    absl::StrCat(excess->count));
}

absl::StatusOr<ChatService::Accepted> ChatService::accept(
    const grpc::CallbackServerContext& context, const grpc::ByteBuffer* request,
    std::string* request_id) {
  grpc::ByteBuffer bytes = take_bytes(request);
  absl::StatusOr<std::string> caller = identify(context);
  if (!caller.ok()) return caller.status();
  if (absl::Status status = readiness_->admit(); !status.ok()) return status;
  if (absl::Status status = check_cancels(context.peer()); !status.ok()) return status;
  ServedModel& model = *model_.load(std::memory_order_acquire);
  absl::Status room = model.engine().check_room(caller_number(*caller), 0);
  if (!room.ok()) return room;
  auto place = callers_->admit(*caller, Clock::now());
  if (!place.ok()) return place.status();
  absl::StatusOr<v1::ChatRequest> message = parse_request(&bytes);
  if (!message.ok()) return message.status();
  const RequestRules& rules = model.rules();
  if (check_request_id(message->request_id(), rules.limits).ok()) {
    *request_id = message->request_id();
  }
  auto checked = check_request(*std::move(message), rules);
  if (!checked.ok()) return checked.status();
  return Accepted{*std::move(caller), *std::move(place), *std::move(checked)};
}

template <typename Base>
Base* ChatService::refuse(grpc::CallbackServerContext* context, const absl::Status& status,
                          std::string_view request_id) {
  const bool may_not_call = status.code() == absl::StatusCode::kUnauthenticated ||
                            status.code() == absl::StatusCode::kPermissionDenied;
  const auto delay = may_not_call ? callers_->penalty(context->peer(), Clock::now())
                                  : std::chrono::milliseconds(0);
  return new Refusal<Base>(fail_call(status, request_id, context), delay);
}

template <typename Base, typename MakeReactor>
Base* ChatService::run(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                       const MakeReactor& make_reactor) {
  std::string request_id;
  try {
    auto accepted = accept(*context, request, &request_id);
    if (!accepted.ok()) return refuse<Base>(context, accepted.status(), request_id);
    auto reactor = make_reactor(std::move(accepted->place));
    const auto call = std::make_shared<Call>(
        model_.load(std::memory_order_acquire), reactor.get(), std::move(accepted->request),
        deadline_of(*context, options_), std::move(accepted->caller), options_.log_requests);
    reactor->carry(call);
    start(*call);
    return reactor.release();
  } catch (...) {
    return refuse<Base>(context, status_of_exception(), request_id);
  }
}

// The call is the reactor's now: whatever happens ends it.
void ChatService::start(Call& call) {
  // A drain that began meanwhile may have found no call active before this one was.
  absl::Status status = readiness_->admit();
  try {
    if (status.ok()) call.start();
  } catch (...) {
    status = status_of_exception();
  }
  if (!status.ok()) call.abort(std::move(status));
}

grpc::ServerUnaryReactor* ChatService::Chat(grpc::CallbackServerContext* context,
                                            const grpc::ByteBuffer* request,
                                            grpc::ByteBuffer* response) {
  return run<grpc::ServerUnaryReactor>(context, request, [&](CallerQuota::Place place) {
    return std::make_unique<ChatReactor>(context, response, active_, &cancels_, std::move(place));
  });
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* ChatService::StreamChat(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  using Stream = grpc::ServerWriteReactor<grpc::ByteBuffer>;
  return run<Stream>(context, request, [&](CallerQuota::Place place) {
    return std::make_unique<GenerateReactor>(context, active_, &cancels_, std::move(place));
  });
}

grpc::ServerUnaryReactor* ChatService::GetModel(grpc::CallbackServerContext* context,
                                                const v1::GetModelRequest* /*request*/,
                                                v1::Model* response) {
  const auto caller = identify(*context);
  if (!caller.ok()) return refuse<grpc::ServerUnaryReactor>(context, caller.status(), {});
  // A draining server still knows what it serves. Asked first: a model may come in between.
  const absl::Status admitted = readiness_->admit();
  const ServedModel* model = model_.load(std::memory_order_acquire);
  if (model == nullptr) return refuse<grpc::ServerUnaryReactor>(context, admitted, {});
  *response = model->description();
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

}  // namespace cogserve
