// The listening server: ports, credentials, HTTP/2 limits, chat service, health, reflection, and
// the watch over stalled calls and an engine that fails or hangs.
//
// It listens from `start` on, so that probes get an answer while the model loads, and takes calls
// from `serve` on. Owned by the serving thread, whose calls it expects.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "server/access/callers.hpp"
#include "server/access/tls_identity.hpp"
#include "server/active_calls.hpp"
#include "server/chat_service.hpp"
#include "server/health.hpp"
#include "server/readiness.hpp"
#include "server/served_model.hpp"

namespace grpc {
class Server;
}

namespace cogserve {

struct NetworkOptions {
  std::string host = "127.0.0.1";
  int port = 8001;  // 0 = any free one
  std::string uds;  // a Unix socket's path, in place of host and port
  int64_t max_message_bytes = int64_t{12} << 20;
  int max_streams = 32;  // of one connection
  std::chrono::milliseconds keepalive_time{30000};
  std::chrono::milliseconds keepalive_timeout{10000};
  std::chrono::milliseconds max_connection_age{30 * 60000};
  std::chrono::milliseconds max_connection_age_grace{320000};
  TlsFiles tls;  // no certificate: no TLS
  AccessOptions access;
  bool reflection = false;

  // "127.0.0.1:8001", "[::1]:8001" or "unix:/run/cogserve.sock".
  std::string address() const;
  // Whether only this machine can reach it.
  bool is_local() const;
  // Whether calls must come with a key or a certificate.
  bool asks_who_calls() const { return access.has_keys() || !tls.client_authorities.empty(); }
  // Whether `host` is a number, or "localhost".
  bool is_one_address() const;
  bool has_tls() const { return !tls.certificate.empty(); }
};

struct WatchOptions {
  std::chrono::milliseconds patience{10000};  // how long one write to a client may take
  // How long a step of the engine may show no progress before the server is `stuck`; after a third
  // of it health turns NOT_SERVING and new calls are refused, until there is progress again.
  std::chrono::milliseconds stall_timeout{30000};
  // Between looks at the files of keys and certificates.
  std::chrono::milliseconds refresh_period{10000};
};

class GrpcServer {
 public:
  // An error names address or file.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> start(const NetworkOptions& network,
                                                           const ChatServiceOptions& chat,
                                                           const WatchOptions& watch);
  // Ends what is left at once.
  ~GrpcServer();

  // The bound port; 0 for a Unix socket.
  int port() const { return port_; }

  // Takes calls from here on. `model` outlives the server.
  void serve(ServedModel* model);

  // Health turns NOT_SERVING first, then new calls are refused; those that run go on.
  void begin_drain();
  // Asks clients to go elsewhere (GOAWAY) and listens no more; calls that run go on. Idempotent.
  void close();
  // True once no call runs.
  bool wait_until_idle(std::chrono::milliseconds timeout);
  size_t active_calls() const { return active_.size(); }
  // Ends every call that runs with `reason`.
  void abort_calls(const absl::Status& reason);
  // Closes; calls that are left, and bytes that are still to go out, have `grace`. Idempotent.
  void shutdown(std::chrono::milliseconds grace);

  // False once the engine has failed for good.
  bool healthy() const;
  // True once a step of the engine has hung for longer than it may.
  bool stuck() const { return stuck_.load(std::memory_order_relaxed); }

 private:
  GrpcServer(std::unique_ptr<Callers> callers, std::unique_ptr<TlsIdentity> tls,
             const ChatServiceOptions& chat, const WatchOptions& watch);
  absl::Status listen(const NetworkOptions& network);
  void watch();
  void check_engine(const Engine& engine, Clock::duration silence);
  void check_calls(Clock::time_point awake_since);
  // Takes keys and certificates that were replaced. A thread of its own: files may hang.
  void refresh_access();

  const WatchOptions watch_options_;
  const std::unique_ptr<Callers> callers_;
  const std::unique_ptr<TlsIdentity> tls_;  // null without TLS
  Readiness readiness_;
  ActiveCalls active_;
  ChatService service_;
  std::unique_ptr<grpc::Server> server_;
  std::future<void> closed_;  // once `close` was called: ready when no call is left
  int port_ = 0;
  std::atomic<bool> stuck_{false};

  std::mutex health_mutex_;  // health follows readiness: both change under it
  std::unique_ptr<Health> health_;
  bool stalled_ = false;

  mutable std::mutex mutex_;  // guards all below
  std::condition_variable stop_watching_;
  ServedModel* model_ = nullptr;
  bool stopping_ = false;
  std::thread watcher_;  // last: they use all of the above
  std::thread refresher_;
};

}  // namespace cogserve
