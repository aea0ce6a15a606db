#include "tests/server/test_server.hpp"

#include <grpcpp/generic/generic_stub.h>

#include <cstdlib>
#include <iostream>
#include <utility>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace cogserve {
namespace {

void* tag(intptr_t value) { return reinterpret_cast<void*>(value); }

// Waits for the next event of a queue that only this thread uses.
bool next(grpc::CompletionQueue* queue) {
  void* event = nullptr;
  bool ok = false;
  return queue->Next(&event, &ok) && ok;
}

}  // namespace

CallError parse_error(const grpc::Status& status) {
  CallError error;
  error.code = status.error_code();
  error.message = status.error_message();
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) return error;
  for (const google::protobuf::Any& any : details.details()) {
    google::rpc::ErrorInfo info;
    google::rpc::BadRequest bad_request;
    google::rpc::ResourceInfo resource;
    google::rpc::QuotaFailure quota;
    google::rpc::RetryInfo retry;
    google::rpc::RequestInfo request;
    if (any.UnpackTo(&info)) {
      error.reason = info.reason();
      error.domain = info.domain();
      auto& metadata = *info.mutable_metadata();
      error.limit = metadata["limit"];
      error.got = metadata["got"];
      error.phase = metadata["phase"];
      error.retryable = metadata["retryable"];
      error.tokens_delivered = metadata["tokens_delivered"];
    } else if (any.UnpackTo(&bad_request)) {
      error.field = bad_request.field_violations(0).field();
    } else if (any.UnpackTo(&resource)) {
      error.resource = resource.resource_type();
    } else if (any.UnpackTo(&quota)) {
      error.quota = quota.violations(0).subject();
    } else if (any.UnpackTo(&retry)) {
      error.retry_ms = retry.retry_delay().seconds() * 1000 + retry.retry_delay().nanos() / 1000000;
    } else if (any.UnpackTo(&request)) {
      error.request_id = request.request_id();
    }
  }
  return error;
}

text::Tokenizer load_test_tokenizer() {
  auto tokenizer =
      text::Tokenizer::load(std::string(COGSERVE_SOURCE_DIR) + "/models/demo/tokenizer.json");
  if (!tokenizer.ok()) {
    std::cerr << tokenizer.status() << '\n';
    std::abort();
  }
  return *std::move(tokenizer);
}

TestServer::TestServer(TestServerOptions options) {
  auto engine = std::make_unique<FakeEngine>(options.engine);
  engine_ = engine.get();
  ServedModelOptions served;
  served.names = {"fake", "alias"};
  served.engine = options.engine;
  served.max_message_bytes = options.network.max_message_bytes;
  model_ = std::make_unique<ServedModel>(std::move(engine), load_test_tokenizer(), served);
  options.network.port = 0;
  auto server = GrpcServer::start(options.network, options.chat, options.watch);
  if (!server.ok()) {
    std::cerr << server.status() << '\n';
    std::abort();
  }
  server_ = *std::move(server);
  if (options.serve) serve();
  stub_ = v1::CogServe::NewStub(connect());
}

std::shared_ptr<grpc::Channel> TestServer::connect(
    bool small_window, const std::shared_ptr<grpc::ChannelCredentials>& credentials) const {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  if (small_window) arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);  // 64 KiB, and it stays so
  return grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(server_->port()), credentials,
                                   arguments);
}

std::vector<int32_t> TestServer::prompt_ids(const std::string& question) const {
  const std::vector<text::Turn> turns{{text::Role::kUser, question}};
  return *tokenizer().encode(*text::render_prompt(text::Template::kChat, turns, false));
}

v1::ChatRequest ask(const std::string& question, int max_tokens) {
  v1::ChatRequest request;
  v1::Message* message = request.add_messages();
  message->set_role(v1::ROLE_USER);
  message->add_parts()->set_text(question);
  request.mutable_stopping()->set_max_tokens(max_tokens);
  request.set_return_token_ids(true);
  return request;
}

ChatResult chat(v1::CogServe::Stub& stub, const v1::ChatRequest& request,
                const std::string& authorization) {
  ChatResult result;
  grpc::ClientContext context;
  if (!authorization.empty()) context.AddMetadata("authorization", authorization);
  result.status = stub.Chat(&context, request, &result.response);
  const auto& trailers = context.GetServerTrailingMetadata();
  const auto found = trailers.find("grpc-retry-pushback-ms");
  if (found != trailers.end()) result.pushback = {found->second.data(), found->second.size()};
  return result;
}

StreamResult read_stream(grpc::ClientReader<v1::StreamChatResponse>* reader) {
  StreamResult result;
  for (v1::StreamChatResponse message; reader->Read(&message);) {
    if (!message.request_id().empty()) result.request_id = message.request_id();
    if (message.has_final()) {
      ++result.finals;
      result.final = message.final();
      continue;
    }
    result.deltas.push_back(message.delta().text());
    result.text += message.delta().text();
    for (const int32_t id : message.delta().token_ids()) result.token_ids.push_back(id);
    for (const auto& logprob : message.delta().logprobs()) result.logprobs.push_back(logprob);
  }
  result.status = reader->Finish();
  return result;
}

StreamResult stream_chat(v1::CogServe::Stub& stub, const v1::ChatRequest& request) {
  grpc::ClientContext context;
  return read_stream(stub.StreamChat(&context, request).get());
}

grpc::Status exchange(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                      const std::string& request, std::string* response) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  auto call = stub.PrepareCall(&context, method, &queue);
  call->StartCall(tag(1));
  next(&queue);
  grpc::Slice slice(request);
  call->WriteLast(grpc::ByteBuffer(&slice, 1), grpc::WriteOptions(), tag(2));
  next(&queue);
  grpc::ByteBuffer answer;
  call->Read(&answer, tag(3));
  const bool has_answer = next(&queue);
  grpc::Status status;
  call->Finish(&status, tag(4));
  next(&queue);
  if (has_answer) {
    std::vector<grpc::Slice> slices;
    answer.Dump(&slices);
    for (const grpc::Slice& part : slices) {
      response->append(reinterpret_cast<const char*>(part.begin()), part.size());
    }
  }
  return status;
}

std::string health_of(const std::shared_ptr<grpc::Channel>& channel, const std::string& service) {
  // HealthCheckRequest { string service = 1; }, HealthCheckResponse { enum status = 1; }
  const std::string request =
      service.empty() ? "" : "\x0a" + std::string(1, static_cast<char>(service.size())) + service;
  std::string response;
  const grpc::Status status = exchange(channel, "/grpc.health.v1.Health/Check", request, &response);
  if (!status.ok()) return status.error_code() == grpc::StatusCode::NOT_FOUND ? "NOT_FOUND" : "?";
  if (response == "\x08\x01") return "SERVING";
  return response == "\x08\x02" ? "NOT_SERVING" : "?";
}

}  // namespace cogserve
