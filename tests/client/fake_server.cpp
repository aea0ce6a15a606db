#include "tests/client/fake_server.hpp"

#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <utility>

#include "cogserve/v1/cogserve.grpc.pb.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace cogserve::client {
namespace {

grpc::Status status_of(const Reply& reply) {
  if (reply.code == 0) return grpc::Status::OK;
  google::rpc::Status rich;
  rich.set_code(reply.code);
  rich.set_message(reply.message);
  if (!reply.reason.empty()) {
    google::rpc::ErrorInfo info;
    info.set_reason(reply.reason);
    info.set_domain("cogvlm2");
    info.mutable_metadata()->insert(reply.metadata.begin(), reply.metadata.end());
    rich.add_details()->PackFrom(info);
  }
  if (!reply.field.empty() && reply.code == static_cast<int>(grpc::StatusCode::NOT_FOUND)) {
    google::rpc::ResourceInfo resource;
    resource.set_resource_type(reply.field);
    rich.add_details()->PackFrom(resource);
  } else if (!reply.field.empty()) {
    google::rpc::BadRequest bad_request;
    bad_request.add_field_violations()->set_field(reply.field);
    rich.add_details()->PackFrom(bad_request);
  }
  if (reply.retry_after_ms >= 0) {
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_seconds(reply.retry_after_ms / 1000);
    retry.mutable_retry_delay()->set_nanos(reply.retry_after_ms % 1000 * 1'000'000);
    rich.add_details()->PackFrom(retry);
  }
  return {static_cast<grpc::StatusCode>(reply.code), reply.message, rich.SerializeAsString()};
}

// Writes the deltas and the final message one after the other.
class StreamReactor final : public grpc::ServerWriteReactor<v1::StreamChatResponse> {
 public:
  explicit StreamReactor(Reply reply) : reply_(std::move(reply)) { write_next(); }

  void OnWriteDone(bool ok) override {
    if (ok) {
      write_next();
    } else {
      finish_once(grpc::Status::CANCELLED);
    }
  }

  void OnCancel() override {
    if (reply_.hang) finish_once(grpc::Status::CANCELLED);
  }

  void OnDone() override { delete this; }

 private:
  void write_next() {
    message_.Clear();
    if (written_ == 0) message_.set_request_id("fake-1");
    if (written_ < reply_.deltas.size()) {
      auto* delta = message_.mutable_delta();
      delta->set_text(reply_.deltas[written_]);
      delta->add_token_ids(static_cast<int32_t>(written_));
      ++written_;
      StartWrite(&message_);
    } else if (reply_.hang) {
      return;
    } else if (reply_.code == 0 && !reply_.leave_out_final && !final_written_) {
      final_written_ = true;
      auto* last = message_.mutable_final();
      last->set_finish_reason(v1::FINISH_REASON_STOP);
      *last->mutable_usage() = reply_.usage;
      *last->mutable_timings() = reply_.timings;
      StartWrite(&message_);
    } else {
      finish_once(status_of(reply_));
    }
  }

  void finish_once(const grpc::Status& status) {
    if (!finished_.exchange(true)) Finish(status);
  }

  Reply reply_;
  v1::StreamChatResponse message_;
  size_t written_ = 0;
  bool final_written_ = false;
  std::atomic<bool> finished_{false};
};

// Never answers; ends when the caller gives up.
class HangingReactor final : public grpc::ServerUnaryReactor {
 public:
  void OnCancel() override { Finish(grpc::Status::CANCELLED); }
  void OnDone() override { delete this; }
};

}  // namespace

struct FakeServer::State final : public v1::CogServe::CallbackService {
  grpc::ServerUnaryReactor* Chat(grpc::CallbackServerContext* context,
                                 const v1::ChatRequest* request,
                                 v1::ChatResponse* response) override {
    const Reply reply = answer(*request);
    if (reply.hang) return new HangingReactor;
    for (const auto& delta : reply.deltas) response->mutable_text()->append(delta);
    response->set_request_id("fake-1");
    response->set_model(request->model());
    response->set_finish_reason(v1::FINISH_REASON_STOP);
    *response->mutable_usage() = reply.usage;
    *response->mutable_timings() = reply.timings;
    auto* reactor = context->DefaultReactor();
    reactor->Finish(status_of(reply));
    return reactor;
  }

  grpc::ServerWriteReactor<v1::StreamChatResponse>* StreamChat(
      grpc::CallbackServerContext*, const v1::ChatRequest* request) override {
    return new StreamReactor(answer(*request));
  }

  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const v1::GetModelRequest*, v1::Model* response) override {
    const std::lock_guard lock(mutex);
    *response = model;
    auto* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  Reply answer(const v1::ChatRequest& request) {
    const std::lock_guard lock(mutex);
    requests.push_back(request);
    return handler(request);
  }

  mutable std::mutex mutex;
  Handler handler;
  std::vector<v1::ChatRequest> requests;
  v1::Model model;
  int port = 0;
  std::unique_ptr<grpc::Server> server;
};

std::string last_question(const v1::ChatRequest& request) {
  std::string text;
  for (const auto& part : request.messages(request.messages_size() - 1).parts()) {
    text += part.text();
  }
  return text;
}

FakeServer::FakeServer(int max_streams) : state_(std::make_unique<State>()) {
  set_handler([](const v1::ChatRequest& request) {
    Reply reply;
    reply.deltas = {"You ", "asked: ", last_question(request)};
    reply.usage.set_prompt_tokens(10);
    reply.usage.set_completion_tokens(3);
    return reply;
  });
  grpc::EnableDefaultHealthCheckService(true);
  grpc::ServerBuilder builder;
  builder.SetMaxReceiveMessageSize(-1);
  if (max_streams > 0) builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, max_streams);
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &state_->port);
  builder.RegisterService(state_.get());
  state_->server = builder.BuildAndStart();
}

FakeServer::~FakeServer() { stop(); }

void FakeServer::set_handler(Handler handler) {
  const std::lock_guard lock(state_->mutex);
  state_->handler = std::move(handler);
}

void FakeServer::set_replies(std::vector<Reply> replies) {
  set_handler([replies = std::move(replies), next = size_t{0}](const v1::ChatRequest&) mutable {
    const size_t index = std::min(next++, replies.size() - 1);
    return replies[index];
  });
}

void FakeServer::set_model(v1::Model model) {
  const std::lock_guard lock(state_->mutex);
  state_->model = std::move(model);
}

void FakeServer::set_serving(bool serving) {
  state_->server->GetHealthCheckService()->SetServingStatus(serving);
}

void FakeServer::stop() {
  state_->server->Shutdown(std::chrono::system_clock::now());
  state_->server->Wait();
}

std::string FakeServer::target() const { return "127.0.0.1:" + std::to_string(state_->port); }

std::vector<v1::ChatRequest> FakeServer::requests() const {
  const std::lock_guard lock(state_->mutex);
  return state_->requests;
}

}  // namespace cogserve::client
