#include "client/client.hpp"

#include <google/protobuf/wrappers.pb.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/security/credentials.h>

#include <algorithm>
#include <future>
#include <mutex>
#include <random>
#include <utility>

#include "client/call_setup.hpp"
#include "client/retry.hpp"
#include "client/status_details.hpp"
#include "client/stream_call.hpp"
#include "client/utf8.hpp"
#include "client/wire.hpp"
#include "cogserve/v1/cogserve.grpc.pb.h"

namespace cogserve::client {
namespace {

using TimePoint = std::chrono::system_clock::time_point;

// The health protocol's request is one string and its answer one enum, both in field 1: on the wire
// they are these two well-known types.
using HealthStub =
    grpc::TemplatedGenericStub<google::protobuf::StringValue, google::protobuf::Int32Value>;

constexpr std::chrono::hours kLongestDeadline{24 * 365};

grpc::ChannelArguments channel_arguments() {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetMaxSendMessageSize(-1);
  // Retries are ours: gRPC's do not know which refusals may pass.
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // Each Client has its own connection: two of them do not share one's limit of streams.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  // Where a name stands for several servers, calls go to all of them in turn.
  arguments.SetLoadBalancingPolicyName("round_robin");
  return arguments;
}

std::shared_ptr<grpc::ChannelCredentials> channel_credentials(const ConnectOptions& options) {
  if (!options.tls) return grpc::InsecureChannelCredentials();
  grpc::SslCredentialsOptions ssl;
  ssl.pem_root_certs = options.ca_certificates;
  ssl.pem_cert_chain = options.certificate;
  ssl.pem_private_key = options.private_key;
  return grpc::SslCredentials(ssl);
}

// Whether it can be sent as metadata.
bool is_printable(const std::string& text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c < 0x7f; });
}

Error invalid_option(const char* field, std::string message) {
  return {.code = Code::kInvalidArgument,
          .reason = "CLIENT_OPTION",
          .field = field,
          .message = std::move(message)};
}

}  // namespace

struct Client::Connection {
  explicit Connection(const ConnectOptions& wanted)
      : options(wanted),
        channel(grpc::CreateCustomChannel(wanted.target, channel_credentials(wanted),
                                          channel_arguments())),
        stub(v1::CogServe::NewStub(channel)) {}

  const ConnectOptions options;
  const std::shared_ptr<grpc::Channel> channel;
  const std::unique_ptr<v1::CogServe::Stub> stub;
  std::mutex random_mutex;
  std::minstd_rand random{std::random_device{}()};

  // Of a call that begins now.
  CallSetup setup() const {
    CallSetup setup;
    setup.api_key = options.api_key;
    if (options.deadline.count() > 0 && options.deadline <= kLongestDeadline) {
      setup.deadline = std::chrono::system_clock::now() + options.deadline;
    }
    return setup;
  }

  double jitter() {
    const std::lock_guard lock(random_mutex);
    return std::uniform_real_distribution<double>(0.0, 1.0)(random);
  }

  // `attempt(context, &got_token)` is one call; it sets `got_token` once it may not be repeated.
  template <typename Attempt>
  auto call(Cancellation* cancellation, const Attempt& attempt)
      -> decltype(attempt(nullptr, nullptr)) {
    Cancellation never;
    if (cancellation == nullptr) cancellation = &never;
    const CallSetup of_call = setup();
    for (int tries = 0;; ++tries) {
      grpc::ClientContext context;
      of_call.apply(&context);
      bool got_token = false;
      cancellation->attach([&context] { context.TryCancel(); });
      auto result = attempt(&context, &got_token);
      cancellation->detach();
      if (result.ok() || got_token) return result;
      const auto delay = retry_delay(result.error(), tries, options.retries, jitter());
      if (!delay) return result;
      const TimePoint next = std::chrono::system_clock::now() + *delay;
      if (next >= of_call.deadline || cancellation->wait_until(next)) return result;
    }
  }
};

Client::Client(std::unique_ptr<Connection> connection) : connection_(std::move(connection)) {}
Client::Client(Client&&) noexcept = default;
Client& Client::operator=(Client&&) noexcept = default;
Client::~Client() = default;

Result<Client> Client::connect(const ConnectOptions& options) {
  if (options.target.empty()) return invalid_option("target", "the server's address is empty");
  if (options.target.find("://") != std::string::npos && !options.target.starts_with("dns://") &&
      !options.target.starts_with("unix://")) {
    return invalid_option(
        "target", "an address is host:port, dns:///name:port or unix:/path, got " + options.target);
  }
  if (options.deadline.count() < 0) return invalid_option("deadline", "a deadline is at least 0");
  if (options.retries < 0) return invalid_option("retries", "retries are at least 0");
  if (!options.tls && !options.ca_certificates.empty()) {
    return invalid_option("ca_certificates",
                          "authorities are for TLS; without it nothing is encrypted");
  }
  if (options.certificate.empty() != options.private_key.empty()) {
    return invalid_option("certificate", "a certificate and its private key come together");
  }
  if (!options.tls && !options.certificate.empty()) {
    return invalid_option("certificate", "a certificate is for TLS; without it none is shown");
  }
  if (!is_printable(options.api_key)) {
    return invalid_option("api_key", "a key is of printable ASCII, without spaces");
  }
  return Client(std::make_unique<Connection>(options));
}

Client Client::another() const {
  return Client(std::make_unique<Connection>(connection_->options));
}

Result<Answer> Client::chat(const ChatRequest& request, Cancellation* cancellation) {
  if (const auto error = check_texts(request)) return *error;
  v1::ChatRequest message;
  write_request(request, &message);
  return connection_->call(
      cancellation, [&](grpc::ClientContext* context, bool*) -> Result<Answer> {
        v1::ChatResponse response;
        const grpc::Status status = connection_->stub->Chat(context, message, &response);
        if (!status.ok()) return to_error(status);
        return read_answer(response);
      });
}

Result<Answer> Client::stream_chat(const ChatRequest& request,
                                   const std::function<void(const Delta&)>& on_delta,
                                   Cancellation* cancellation) {
  if (const auto error = check_texts(request)) return *error;
  v1::ChatRequest message;
  write_request(request, &message);
  return connection_->call(cancellation,
                           [&](grpc::ClientContext* context, bool* got_token) -> Result<Answer> {
                             AnswerBuilder builder;
                             v1::StreamChatResponse response;
                             const auto reader = connection_->stub->StreamChat(context, message);
                             while (reader->Read(&response)) {
                               *got_token = true;
                               if (const Delta* delta = builder.add(response)) on_delta(*delta);
                             }
                             const grpc::Status status = reader->Finish();
                             if (!status.ok()) return to_error(status);
                             return builder.take();
                           });
}

void Client::start_stream_chat(const ChatRequest& request,
                               std::function<void(const Delta&)> on_delta,
                               std::function<void(Result<Answer>)> on_done,
                               std::shared_ptr<Cancellation> cancellation) {
  if (const auto error = check_texts(request)) return on_done(*error);
  StreamCall::start(connection_->stub.get(), request, connection_->setup(), std::move(on_delta),
                    std::move(on_done), std::move(cancellation));
}

Result<ModelInfo> Client::get_model() {
  return connection_->call(nullptr, [&](grpc::ClientContext* context, bool*) -> Result<ModelInfo> {
    v1::Model model;
    const grpc::Status status = connection_->stub->GetModel(context, {}, &model);
    if (!status.ok()) return to_error(status);
    return read_model(model);
  });
}

Result<Health> Client::health(const std::string& service) {
  if (!is_utf8(service)) return text_error("service");
  return connection_->call(nullptr, [&](grpc::ClientContext* context, bool*) -> Result<Health> {
    HealthStub stub(connection_->channel);
    google::protobuf::StringValue request;
    google::protobuf::Int32Value response;
    request.set_value(service);
    std::promise<grpc::Status> done;
    stub.UnaryCall(context, "/grpc.health.v1.Health/Check", {}, &request, &response,
                   [&done](const grpc::Status& status) { done.set_value(status); });
    const grpc::Status status = done.get_future().get();
    if (!status.ok()) return to_error(status);
    return static_cast<Health>(response.value());
  });
}

}  // namespace cogserve::client
