#include "server/grpc_server.hpp"

#include <arpa/inet.h>
#include <grpc/grpc.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/resource_quota.h>

#include <algorithm>
#include <utility>

#include "server/awake_time.hpp"
#include "server/call.hpp"
#include "server/log.hpp"

namespace cogserve {
namespace {

constexpr int kMaxSendBytes = 4 << 20;  // what clients receive by default
constexpr int kSoftMetadataBytes = 8 << 10;
constexpr int kHardMetadataBytes = 16 << 10;
constexpr size_t kMemoryQuota = size_t{1} << 30;
constexpr std::chrono::milliseconds kWatchPeriod{500};
constexpr std::chrono::milliseconds kCancelPeriod{20};
constexpr int kStallSteps = 3;  // of a stall's time, after the first health says so

// The plugin registers itself with every builder of a process that links it; here it is a choice.
class ReflectionChoice final : public grpc::ServerBuilderOption {
 public:
  explicit ReflectionChoice(bool wanted) : wanted_(wanted) {}

  void UpdateArguments(grpc::ChannelArguments* /*arguments*/) override {}

  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    grpc::reflection::ProtoServerReflectionPlugin plugin;
    plugins->erase(
        std::remove_if(plugins->begin(), plugins->end(),
                       [&](const auto& other) { return other->name() == plugin.name(); }),
        plugins->end());
    if (wanted_)
      plugins->push_back(std::make_unique<grpc::reflection::ProtoServerReflectionPlugin>());
  }

 private:
  const bool wanted_;
};

int to_int_ms(std::chrono::milliseconds time) {
  return static_cast<int>(std::min<int64_t>(time.count(), INT32_MAX));
}

void set_http2_limits(const NetworkOptions& network, grpc::ServerBuilder* builder) {
  const std::pair<const char*, int> arguments[] = {
      {GRPC_ARG_ALLOW_REUSEPORT, 0},  // a port in use is an error, not a partner
      {GRPC_ARG_MAX_CONCURRENT_STREAMS, network.max_streams},
      {GRPC_ARG_MAX_METADATA_SIZE, kSoftMetadataBytes},
      {"grpc.absolute_max_metadata_size", kHardMetadataBytes},  // newer than 1.51
      {GRPC_ARG_KEEPALIVE_TIME_MS, to_int_ms(network.keepalive_time)},
      {GRPC_ARG_KEEPALIVE_TIMEOUT_MS, to_int_ms(network.keepalive_timeout)},
      {GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 0},
      {GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0},  // no cap: dead peers are found in queue waits
      {GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 20000},
      {GRPC_ARG_HTTP2_MAX_PING_STRIKES, 2},
      {GRPC_ARG_MAX_CONNECTION_IDLE_MS, 5 * 60000},
      {GRPC_ARG_MAX_CONNECTION_AGE_MS, to_int_ms(network.max_connection_age)},
      {GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS, to_int_ms(network.max_connection_age_grace)},
      {GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, 10000},
  };
  for (const auto& [name, value] : arguments) builder->AddChannelArgument(name, value);
  // A compressed message is inflated before its size is checked, without any bound.
  builder->SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_DEFLATE, false);
  builder->SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_GZIP, false);
  builder->SetMaxReceiveMessageSize(static_cast<int>(network.max_message_bytes));
  builder->SetMaxSendMessageSize(kMaxSendBytes);
  builder->SetResourceQuota(grpc::ResourceQuota("cogserve").Resize(kMemoryQuota));
}

}  // namespace

std::string NetworkOptions::address() const {
  if (!uds.empty()) return "unix:" + uds;
  // A name with several addresses would make a listener of each, and gRPC's way to change a
  // certificate is safe with one (TlsIdentity).
  if (has_tls() && host == "localhost") return "127.0.0.1:" + std::to_string(port);
  const bool is_ipv6 = host.find(':') != std::string::npos && host.front() != '[';
  return (is_ipv6 ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

bool NetworkOptions::is_one_address() const {
  const std::string number =
      !host.empty() && host.front() == '[' ? host.substr(1, host.size() - 2) : host;
  in6_addr bytes;
  return host == "localhost" || inet_pton(AF_INET, number.c_str(), &bytes) == 1 ||
         inet_pton(AF_INET6, number.c_str(), &bytes) == 1;
}

bool NetworkOptions::is_local() const {
  return !uds.empty() || host == "localhost" || host == "::1" || host == "[::1]" ||
         host.rfind("127.", 0) == 0;
}

GrpcServer::GrpcServer(std::unique_ptr<Callers> callers, std::unique_ptr<TlsIdentity> tls,
                       const ChatServiceOptions& chat, const WatchOptions& watch)
    : watch_options_(watch),
      callers_(std::move(callers)),
      tls_(std::move(tls)),
      service_(&readiness_, callers_.get(), &active_, chat) {}

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::start(const NetworkOptions& network,
                                                              const ChatServiceOptions& chat,
                                                              const WatchOptions& watch) {
  absl::StatusOr<std::unique_ptr<Callers>> callers = Callers::load(network.access);
  if (!callers.ok()) return callers.status();
  absl::StatusOr<std::unique_ptr<TlsIdentity>> tls = nullptr;
  if (network.has_tls()) tls = TlsIdentity::load(network.tls);
  if (!tls.ok()) return tls.status();
  std::unique_ptr<GrpcServer> server(
      new GrpcServer(*std::move(callers), *std::move(tls), chat, watch));
  if (absl::Status status = server->listen(network); !status.ok()) return status;
  server->watcher_ = std::thread([raw = server.get()] { raw->watch(); });
  server->refresher_ = std::thread([raw = server.get()] { raw->refresh_access(); });
  return server;
}

absl::Status GrpcServer::listen(const NetworkOptions& network) {
  const auto credentials =
      tls_ == nullptr ? grpc::InsecureServerCredentials() : tls_->credentials();
  grpc::EnableDefaultHealthCheckService(true);
  grpc::ServerBuilder builder;
  set_http2_limits(network, &builder);
  builder.SetOption(std::make_unique<ReflectionChoice>(network.reflection));
  builder.AddListeningPort(network.address(), credentials, &port_);
  builder.RegisterService(&service_);
  server_ = builder.BuildAndStart();
  if (server_ == nullptr || (port_ == 0 && network.uds.empty())) {
    return absl::UnavailableError(network.address() +
                                  ": cannot listen here (is the address in use?)");
  }
  if (!network.uds.empty()) port_ = 0;
  health_ = std::make_unique<Health>(server_->GetHealthCheckService());
  return absl::OkStatus();
}

GrpcServer::~GrpcServer() { shutdown(std::chrono::milliseconds(0)); }

void GrpcServer::serve(ServedModel* model) {
  {
    const std::lock_guard lock(mutex_);
    model_ = model;
  }
  service_.set_model(model);
  const std::lock_guard lock(health_mutex_);
  readiness_.advance(Readiness::State::kServing);
  health_->set_ready(true);
}

void GrpcServer::begin_drain() {
  const std::lock_guard lock(health_mutex_);
  health_->set_ready(false);
  readiness_.advance(Readiness::State::kDraining);
}

bool GrpcServer::healthy() const {
  const std::lock_guard lock(mutex_);
  return model_ == nullptr || std::as_const(*model_).engine().healthy();
}

bool GrpcServer::wait_until_idle(std::chrono::milliseconds timeout) {
  return active_.wait_until_empty(timeout);
}

void GrpcServer::abort_calls(const absl::Status& reason) {
  active_.for_each([&reason](CallTransport& transport) { transport.call().abort(reason); });
}

void GrpcServer::close() {
  if (server_ == nullptr || closed_.valid()) return;
  closed_ = std::async(std::launch::async, [this] { server_->Shutdown(); });
}

void GrpcServer::shutdown(std::chrono::milliseconds grace) {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  stop_watching_.notify_all();
  for (std::thread* thread : {&watcher_, &refresher_}) {
    if (thread->joinable()) thread->join();
  }
  if (server_ == nullptr) return;
  close();
  while (closed_.wait_for(grace) == std::future_status::timeout) {
    grpc_server_cancel_all_calls(server_->c_server());
    grace = kCancelPeriod;  // a call may have come in just before the end
  }
  closed_.get();
  server_->Wait();
  server_.reset();
}

void GrpcServer::watch() {
  const auto period = std::min(
      {kWatchPeriod, watch_options_.patience / 2, watch_options_.stall_timeout / kStallSteps / 2});
  AwakeTime awake(period);
  std::unique_lock lock(mutex_);
  while (!stop_watching_.wait_for(lock, period, [this] { return stopping_; })) {
    const ServedModel* const model = model_;
    lock.unlock();
    const bool overslept = awake.overslept();
    if (model != nullptr) check_engine(model->engine(), awake.of(model->engine().silence()));
    if (!overslept) check_calls(awake.since());
    lock.lock();
  }
}

void GrpcServer::check_engine(const Engine& engine, Clock::duration silence) {
  const std::lock_guard lock(health_mutex_);
  // A drain must not wait for it either.
  if (silence > watch_options_.stall_timeout) stuck_.store(true, std::memory_order_relaxed);
  if (!engine.healthy()) {
    readiness_.advance(Readiness::State::kFailed);
    health_->set_ready(false);
  }
  if (readiness_.state() != Readiness::State::kServing) return;
  const bool stalled = silence > watch_options_.stall_timeout / kStallSteps;
  if (stalled == stalled_) return;
  stalled_ = stalled;
  readiness_.set_stalled(stalled);
  health_->set_ready(!stalled);
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(silence).count();
  log_event(LogLevel::kWarning, stalled ? "engine.stalled" : "engine.moves_again",
            {{"silent_ms", int64_t{ms}}});
}

void GrpcServer::check_calls(Clock::time_point awake_since) {
  const Clock::time_point now = Clock::now();
  active_.for_each([&](CallTransport& transport) {
    if (transport.call().check_stall(now, awake_since, watch_options_.patience)) transport.reset();
  });
}

void GrpcServer::refresh_access() {
  const auto report = [](const std::string& what, const absl::StatusOr<bool>& taken) {
    if (!taken.ok()) {
      log_event(LogLevel::kWarning, "access.kept",
                {{"what", what}, {"error", std::string(taken.status().message())}});
    } else if (*taken) {
      log_event(LogLevel::kInfo, "access.reloaded", {{"what", what}});
    }
  };
  std::unique_lock lock(mutex_);
  while (
      !stop_watching_.wait_for(lock, watch_options_.refresh_period, [this] { return stopping_; })) {
    lock.unlock();
    report("keys", callers_->refresh());
    if (tls_ != nullptr) {
      const absl::StatusOr<bool> taken = tls_->refresh();
      report("certificate, good until " + tls_->expiry(), taken);
    }
    lock.lock();
  }
}

}  // namespace cogserve
