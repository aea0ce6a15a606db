// A real server over a fake engine, in this process, and what a test's client needs to talk to it.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <vector>

#include "cogserve/v1/cogserve.grpc.pb.h"
#include "server/grpc_server.hpp"
#include "tests/server/fake_engine.hpp"

namespace cogserve {

// What a failed call carries, out of its details.
struct CallError {
  grpc::StatusCode code = grpc::StatusCode::OK;
  std::string message;
  std::string reason;
  std::string domain;
  std::string field;     // BadRequest
  std::string resource;  // ResourceInfo
  std::string limit;
  std::string got;
  std::string phase;
  std::string retryable;
  std::string tokens_delivered;
  std::string quota;  // QuotaFailure
  std::string request_id;
  int64_t retry_ms = -1;
};

CallError parse_error(const grpc::Status& status);

// The demo model's tokenizer.
text::Tokenizer load_test_tokenizer();

struct TestServerOptions {
  EngineConfig engine;
  ChatServiceOptions chat{.max_cancels = 0};
  WatchOptions watch;
  NetworkOptions network;  // port 0
  bool serve = true;       // else the model is left for `serve` to bring in
};

class TestServer {
 public:
  explicit TestServer(TestServerOptions options = {});

  void serve() { server_->serve(model_.get()); }
  FakeEngine& engine() { return *engine_; }
  GrpcServer& server() { return *server_; }
  ServedModel& model() { return *model_; }
  int port() const { return server_->port(); }
  const text::Tokenizer& tokenizer() const { return model_->tokenizer(); }

  // A connection of its own. One with a small window takes little that is not read.
  std::shared_ptr<grpc::Channel> connect(
      bool small_window = false, const std::shared_ptr<grpc::ChannelCredentials>& credentials =
                                     grpc::InsecureChannelCredentials()) const;
  v1::CogServe::Stub& stub() { return *stub_; }

  // The ids that the engine will be given for this question in the chat template.
  std::vector<int32_t> prompt_ids(const std::string& question) const;

 private:
  FakeEngine* engine_;  // owned by model_
  std::unique_ptr<ServedModel> model_;
  std::unique_ptr<GrpcServer> server_;  // before model_ goes
  std::unique_ptr<v1::CogServe::Stub> stub_;
};

// One user message of text.
v1::ChatRequest ask(const std::string& question, int max_tokens = 8);

// A unary call.
struct ChatResult {
  grpc::Status status;
  v1::ChatResponse response;
  std::string pushback;  // the trailer grpc-retry-pushback-ms
};

// `authorization`: that metadata's value; empty: none.
ChatResult chat(v1::CogServe::Stub& stub, const v1::ChatRequest& request,
                const std::string& authorization = "");

// A stream read to its end.
struct StreamResult {
  grpc::Status status;
  std::string request_id;
  std::string text;
  std::vector<int32_t> token_ids;
  std::vector<v1::TokenLogprob> logprobs;
  std::vector<std::string> deltas;
  int finals = 0;
  v1::Final final;
};

StreamResult read_stream(grpc::ClientReader<v1::StreamChatResponse>* reader);
StreamResult stream_chat(v1::CogServe::Stub& stub, const v1::ChatRequest& request);

// One bidirectional exchange of raw bytes: for services whose stubs are not generated here.
grpc::Status exchange(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                      const std::string& request, std::string* response);

// grpc.health.v1.Health/Check: "SERVING", "NOT_SERVING" or the status code's name.
std::string health_of(const std::shared_ptr<grpc::Channel>& channel, const std::string& service);

}  // namespace cogserve
