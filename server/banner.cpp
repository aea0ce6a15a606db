#include "server/banner.hpp"

#include <google/protobuf/stubs/common.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <cstdio>

#include "server/log.hpp"

namespace cogserve {
namespace {

double to_mib(size_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

void write_risks(const ServeOptions& options) {
  const NetworkOptions& network = options.network;
  if (network.is_local()) return;
  if (!network.has_tls()) {
    log_event(LogLevel::kWarning, "exposed",
              {{"what", network.asks_who_calls()
                            ? "no TLS: everyone on the way may read requests, answers and keys"
                            : "no TLS: everyone who reaches this address may call, and everyone on "
                              "the way may read"}});
  } else if (!network.asks_who_calls()) {
    log_event(
        LogLevel::kWarning, "exposed",
        {{"what", "no keys, no client certificates: everyone who reaches this address may call"}});
  }
  if (grpc_is_exposed_to_floods(grpc::Version())) {
    log_event(LogLevel::kWarning, "exposed",
              {{"what",
                "this gRPC is older than 1.60 and open to header floods (CVE-2023-33953, "
                "CVE-2023-4785, CVE-2023-1428): put a proxy that limits headers before it"},
               {"grpc", grpc::Version()}});
  }
}

}  // namespace

std::string bound_address(const NetworkOptions& network, int port) {
  NetworkOptions bound = network;
  bound.port = port;
  return bound.address();
}

bool grpc_is_exposed_to_floods(const std::string& grpc_version) {
  int major = 0;
  int minor = 0;
  if (std::sscanf(grpc_version.c_str(), "%d.%d", &major, &minor) != 2) return true;
  return major < 1 || (major == 1 && minor < 60);
}

void write_banner(const ServeOptions& options, const ServedModel& model, int port,
                  std::chrono::nanoseconds load_time) {
  const EngineInfo& info = model.engine().info();
  const v1::Model& description = model.description();
  const int picture = info.model.vision.image_tokens() + 1;
  const int protobuf = GOOGLE_PROTOBUF_VERSION;
  log_event(LogLevel::kInfo, "model",
            {{"name", model.name()},
             {"dtype", info.dtype},
             {"weights", info.weights},
             {"rope", info.rope_dtype},
             {"device", info.device},
             {"template", v1::Template_Name(description.default_template())},
             {"weights_mib", to_mib(info.weight_bytes)},
             {"load_s", std::chrono::duration<double>(load_time).count()}});
  log_event(LogLevel::kInfo, "kv_cache",
            {{"tokens", info.kv_tokens()},
             {"block", int64_t{info.block_size}},
             {"mib", to_mib(info.kv_bytes)},
             {"full_contexts", info.kv_tokens() / std::max(info.max_model_len, 1)},
             {"pictures", info.kv_tokens() / picture},
             {"tokens_per_picture", int64_t{picture - 1}}});
  log_event(LogLevel::kInfo, "limits",
            {{"max_model_len", int64_t{info.max_model_len}},
             {"max_num_seqs", int64_t{options.engine.max_num_seqs}},
             {"max_num_batched_tokens", int64_t{options.engine.max_num_batched_tokens}},
             {"max_queue_size", int64_t{options.engine.max_queue_size}},
             {"max_image_bytes", description.limits().max_image_bytes()},
             {"max_image_pixels", description.limits().max_image_pixels()},
             {"max_message_bytes", description.limits().max_message_bytes()}});
  log_event(LogLevel::kInfo, "versions",
            {{"cogserve", description.server_version()},
             {"grpc", grpc::Version()},
             {"protobuf", int64_t{protobuf}}});
  write_risks(options);
  log_event(LogLevel::kInfo, "serving",
            {{"address", bound_address(options.network, port)},
             {"tls", options.network.has_tls() ? "yes" : "no"},
             {"callers", options.network.asks_who_calls() ? "known" : "anyone"},
             {"reflection", options.network.reflection ? "on" : "off"}});
}

}  // namespace cogserve
