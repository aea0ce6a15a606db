// A connection to a cogserve server, or to all behind one name, which are then asked in turn. Made
// by `Client::connect`, owned by the caller, movable; every method may be called from any thread at
// the same time.
//
//   auto client = cogserve::client::Client::connect({.target = "127.0.0.1:8001"});
//   ChatRequest request;
//   request.messages = Conversation().ask("What is this?", Image{bytes}).messages();
//   auto answer = client->chat(request);
//   std::cout << (answer.ok() ? answer->text : answer.error().message);
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "client/cancellation.hpp"
#include "client/error.hpp"
#include "client/types.hpp"

namespace cogserve::client {

struct ConnectOptions {
  // host:port, dns:///name:port or unix:/path.
  std::string target = "127.0.0.1:8001";
  bool tls = false;
  // PEM, for `tls` alone: whom to trust (empty: the system's authorities), and what this client
  // shows of itself, if the server asks.
  std::string ca_certificates = {};
  std::string certificate = {};
  std::string private_key = {};
  // Sent with every call as `authorization: Bearer KEY`. Without `tls` everyone on the way can read
  // it.
  std::string api_key = {};
  // Of one call, all its attempts together; 0, or above a year: none.
  std::chrono::milliseconds deadline{0};
  // Further attempts after a refusal that may pass (see client/retry.hpp), never after a token.
  int retries = 3;
};

class Client {
 public:
  // Checks the options; the connection itself is made by the first call.
  static Result<Client> connect(const ConnectOptions& options);

  Client(Client&&) noexcept;
  Client& operator=(Client&&) noexcept;
  ~Client();

  // A further connection with the same options: each has the server's limit of streams to itself.
  Client another() const;

  // Blocks until the whole answer is there. `cancellation`, if given, must outlive the call. Here
  // and below a request with text that is not UTF-8 is not sent, but INVALID_ARGUMENT (TEXT_UTF8).
  Result<Answer> chat(const ChatRequest& request, Cancellation* cancellation = nullptr);

  // Blocks until the answer is complete; `on_delta` is called on this thread for each piece.
  // Returns the whole answer, or the error that ended it, whatever had arrived by then.
  Result<Answer> stream_chat(const ChatRequest& request,
                             const std::function<void(const Delta&)>& on_delta,
                             Cancellation* cancellation = nullptr);

  // Returns at once; both callbacks run on gRPC's threads, never at the same time, must not block,
  // and `on_done` is the last (of a request that is not sent, on this thread). One attempt. For
  // callers with many calls in flight. The client must outlive the call.
  void start_stream_chat(const ChatRequest& request, std::function<void(const Delta&)> on_delta,
                         std::function<void(Result<Answer>)> on_done,
                         std::shared_ptr<Cancellation> cancellation = nullptr);

  Result<ModelInfo> get_model();

  // grpc.health.v1; "" is the whole server. A service that the server does not know is NOT_FOUND.
  Result<Health> health(const std::string& service = "");

 private:
  struct Connection;

  explicit Client(std::unique_ptr<Connection> connection);

  std::unique_ptr<Connection> connection_;
};

}  // namespace cogserve::client
