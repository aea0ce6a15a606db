#include "server/options.hpp"

#include <algorithm>
#include <filesystem>
#include <limits>

#include "server/memory_flags.hpp"

namespace cogserve {

ServeFlags::ServeFlags(ServeOptions* options)
    : options_(*options),
      table_("serve", "[options]", "serve a model over gRPC until SIGTERM or SIGINT"),
      max_image_bytes_(options->limits.image.max_encoded_bytes) {
  add_model_flags();
  add_schedule_flags();
  add_network_flags();
  add_access_flags();
  add_server_flags();
}

void ServeFlags::add_model_flags() {
  EngineConfig& engine = options_.engine;
  table_.group("Model");
  cogserve::add_model_flags(&engine, &table_);
  table_.add("served-model-name", &options_.served_model_names, "NAME",
             "Name that requests may give; answers carry the first. Without it, the directory's.");
  table_.add("tokenizer", &options_.tokenizer, "PATH",
             "tokenizer.json, or the directory it is in, if not the model's own.");
  table_.add_choice("template", &options_.chat_template, {"auto", "chat", "vqa", "base"},
                    "Prompt template of requests that name none; auto: as the checkpoint says.");
  table_.add("threads", &engine.threads, "N", "Threads of the CPU device; 0: one for each core.");
  table_.add_choice(
      "dtype", &dtype_, {"auto", "bfloat16"},
      "Of the activations that go into matrix products; auto: f32 on the CPU, bfloat16 on a GPU. "
      "On a CPU with AVX512_BF16 bfloat16 halves the time of prompts, pictures and many sequences. "
      "Matrices are kept as the checkpoint stores them.");
  formats_.add_to(&table_);
  table_.add_choice("load-format", &load_format_, {"safetensors", "dummy"},
                    "dummy: random weights from --seed, to try shapes and speed.");
  table_.add_choice(
      "rope-dtype", &rope_dtype_, {"auto", "bf16", "fp32"},
      "Precision of the rotary tables; auto: bf16 for a bf16 checkpoint, as the model "
      "was trained.");
  table_.add(
      "seed", &engine.seed, "N",
      "Of dummy weights, and of what requests without a seed draw; 0: a new one each start.");
}

void ServeFlags::add_schedule_flags() {
  EngineConfig& engine = options_.engine;
  table_.group("Memory and scheduling");
  add_memory_flags(&engine, &table_);
  table_.add("max-itl-ms", &max_itl_ms_, "MS",
             "Target for the gap between the tokens of a stream while pictures are encoded: the "
             "tower then runs in slices that fit; 0: --vision-layers-per-step.");
  table_.add("vision-layers-per-step", &engine.vision_layers_per_step, "N",
             "Layers of the vision tower between two decoding steps; 0: about one full step's "
             "worth.");
  table_.add("max-queue-size", &engine.max_queue_size, "N",
             "Requests that may wait; more are refused with QUEUE_FULL. The owner of a key or "
             "certificate with some there already may have three quarters of what others leave, so "
             "of N at most (TENANT_QUOTA).");
  table_.add("max-queue-time", &engine.max_queue_time, "TIME",
             "A request that waits longer ends with DEADLINE_EXCEEDED.");
  table_.add("preprocess-threads", &options_.preprocess_threads, "N",
             "Threads that read pictures and tokenize.");
  table_.add("max-image-bytes", &max_image_bytes_, "SIZE", "Largest encoded picture.");
  table_.add("max-image-pixels", &options_.limits.image.max_pixels, "N",
             "Most pixels of a picture, whatever it is resized to.");
  table_.add("warmup", &options_.warmup,
             "Run a text, a picture and, on a GPU, batches of texts before SERVING.");
}

void ServeFlags::add_network_flags() {
  NetworkOptions& network = options_.network;
  table_.group("Network");
  table_.add("host", &network.host, "ADDRESS",
             "Address to listen on. One that others can reach needs TLS and keys or client "
             "certificates, or --insecure.");
  table_.add("grpc-port", &network.port, "PORT", "Port to listen on; 0: any free one.");
  table_.add("uds", &network.uds, "PATH", "Listen on a Unix socket, not on host and port.");
  table_.add("grpc-max-message-bytes", &network.max_message_bytes, "SIZE",
             "Largest request message.");
  table_.add("grpc-max-concurrent-streams", &network.max_streams, "N", "Calls of one connection.");
  table_.add("grpc-keepalive-time", &network.keepalive_time, "TIME",
             "Quiet time after which a connection is probed.");
  table_.add("grpc-keepalive-timeout", &network.keepalive_timeout, "TIME",
             "Time after which a probe without an answer ends the connection.");
  table_.add("grpc-max-connection-age", &network.max_connection_age, "TIME",
             "Age at which clients are asked to connect anew.");
  table_.add("grpc-max-connection-age-grace", &network.max_connection_age_grace, "TIME",
             "Time that calls of such a connection have left. Unless given: 20 s more than "
             "--max-request-time.");
  table_.add("grpc-max-cancels", &options_.chat.max_cancels, "N",
             "Calls that a connection may cancel in 10 seconds; 0: any number.");
  table_.add("enable-reflection", &reflection_,
             "Answer grpcurl's questions about services and messages. Unless given: only where no "
             "other machine can ask.");
}

void ServeFlags::add_access_flags() {
  NetworkOptions& network = options_.network;
  AccessOptions& access = network.access;
  table_.group("Access");
  table_.add(
      "ssl-certfile", &network.tls.certificate, "FILE",
      "The server's certificate chain (PEM). Read again when it changes, as the files of the "
      "next three.");
  table_.add("ssl-keyfile", &network.tls.key, "FILE", "Its private key (PEM).");
  table_.add("ssl-ca-certs", &network.tls.client_authorities, "FILE",
             "Clients show a certificate signed by one of these (PEM).");
  table_.add("api-key-file", &access.api_key_file, "FILE",
             "Calls must bring a key of this file: a key, or a name and a key, on each line; "
             "sha256:HEX for a key that it does not tell.");
  table_.add(
      "api-key", &access.api_keys, "KEY",
      "Calls must bring this key, or one of the file. Others on this machine may see it here: "
      "better in the environment, or the file.");
  table_.add_choice("ssl-cert-reqs", &cert_reqs_, {"required", "optional"},
                    "Whether all clients must show a certificate; optional: it does instead of a "
                    "key.");
  table_.add("ssl-allowed-name", &access.allowed_names, "NAME",
             "Name that a client's certificate must have, one of these if there are several: a DNS "
             "name or URI of its subject alternative names or, if it has none, its common name. "
             "Unless given: any.");
  table_.add("max-calls-per-caller", &access.quota.max_calls, "N",
             "Calls that the owner of a key or certificate may have running and waiting; 0: any "
             "number.");
  table_.add("max-rate-per-caller", &access.quota.max_rate, "N",
             "Calls a second of such an owner in the long run, up to twice as many at once; 0: any "
             "number.");
  table_.add("insecure", &options_.insecure,
             "Listen where others can reach it without TLS, or without asking who calls.");
}

void ServeFlags::add_server_flags() {
  table_.group("Server");
  table_.add("shutdown-timeout", &options_.shutdown_timeout, "TIME",
             "How long running calls may go on after SIGTERM; at most 10 s later the process "
             "ends.");
  table_.add("stall-timeout", &options_.stall_timeout, "TIME",
             "A step that hangs for so long ends the process; for a third of it, NOT_SERVING. "
             "Longer for a large model on few cores.");
  table_.add("max-request-time", &options_.chat.max_request_time, "TIME",
             "Longest time of one call, whatever its own deadline.");
  table_.add("max-ttft", &options_.chat.max_ttft, "TIME",
             "Longest time until a call's first token; 0: any. Longer for pictures on few cores.");
  table_.add("slow-reader-time", &options_.engine.slow_reader_time, "TIME",
             "A client that takes nothing for so long loses its call; in all, if it keeps others "
             "from starting.");
  table_.add_choice("log-level", &options_.log_level, {"debug", "info", "warning", "error", "off"},
                    "Least important lines that are written.");
  table_.add_choice("log-format", &options_.log_format, {"text", "json"},
                    "Form of the log's lines.");
  table_.add("enable-log-requests", &options_.chat.log_requests,
             "A line for each call that ends: sizes and times, never its content.");
}

absl::Status ServeFlags::complete() {
  EngineConfig& engine = options_.engine;
  if (engine.model_dir.empty()) {
    // An unset variable in somebody's script must not serve another model than they meant.
    if (table_.given("model")) return refuse_flag("model", "wants a directory, got nothing");
    engine.model_dir = default_model_dir();
  }
  engine.formats = formats_.formats();
  engine.load_format = load_format_ == "dummy" ? LoadFormat::kDummy : LoadFormat::kSafetensors;
  engine.rope_dtype = rope_dtype_ == "bf16"   ? RopeDtype::kBF16
                      : rope_dtype_ == "fp32" ? RopeDtype::kF32
                                              : RopeDtype::kAuto;
  engine.bf16_products = dtype_ == "bfloat16";
  engine.max_itl = std::chrono::milliseconds(max_itl_ms_);
  if (!table_.given("max-image-bytes")) {
    max_image_bytes_ = std::min<uint64_t>(max_image_bytes_, options_.network.max_message_bytes);
  }
  options_.limits.image.max_encoded_bytes = max_image_bytes_;
  if (!table_.given("grpc-max-connection-age-grace")) {
    options_.network.max_connection_age_grace =
        options_.chat.max_request_time + std::chrono::seconds(20);
  }
  if (options_.chat_template == "auto") options_.chat_template.clear();
  for (const std::string& name : options_.served_model_names) {
    if (name.empty()) return refuse_flag("served-model-name", "wants a name, got nothing");
  }
  if (options_.served_model_names.empty()) {
    namespace fs = std::filesystem;
    const fs::path dir = fs::path(engine.model_dir).lexically_normal();
    options_.served_model_names = {(dir.has_filename() ? dir : dir.parent_path()).filename()};
  }
  options_.network.reflection =
      table_.given("enable-reflection") ? reflection_ : options_.network.is_local();
  options_.network.tls.client_certificate_required = cert_reqs_ == "required";
  options_.network.access.certificate_suffices = cert_reqs_ == "optional";
  if (absl::Status status = check_ranges(); !status.ok()) return status;
  if (absl::Status status = check_access(); !status.ok()) return status;
  return check_exposure();
}

absl::Status ServeFlags::check_ranges() const {
  constexpr int64_t kMany = std::numeric_limits<int>::max();
  const EngineConfig& engine = options_.engine;
  const NetworkOptions& network = options_.network;
  const absl::Status checks[] = {
      check_flag_range("threads", engine.threads, 0, 1024),
      check_flag_range("max-itl-ms", max_itl_ms_, 0, 60000),
      check_flag_range("vision-layers-per-step", engine.vision_layers_per_step, 0, kMany),
      check_flag_range("max-queue-size", engine.max_queue_size, 1, kMany),
      check_flag_range("max-queue-time", engine.max_queue_time.count(), 1, kMany),
      check_flag_range("preprocess-threads", options_.preprocess_threads, 1, 256),
      check_flag_range("max-image-bytes", static_cast<int64_t>(max_image_bytes_), 1,
                       std::min<int64_t>(network.max_message_bytes, 32 << 20)),
      check_flag_range("max-image-pixels", options_.limits.image.max_pixels, 1, 48 << 20),
      check_flag_range("grpc-port", network.port, 0, 65535),
      check_flag_range("grpc-max-message-bytes", network.max_message_bytes, 1024, 64 << 20),
      check_flag_range("grpc-max-concurrent-streams", network.max_streams, 1, kMany),
      check_flag_range("grpc-max-cancels", options_.chat.max_cancels, 0, kMany),
      check_flag_range("grpc-keepalive-time", network.keepalive_time.count(), 1000, kMany),
      check_flag_range("grpc-keepalive-timeout", network.keepalive_timeout.count(), 1000, kMany),
      check_flag_range("grpc-max-connection-age-grace", network.max_connection_age_grace.count(),
                       options_.chat.max_request_time.count(), std::numeric_limits<int64_t>::max()),
      check_flag_range("max-calls-per-caller", network.access.quota.max_calls, 0, kMany),
      check_flag_range("max-rate-per-caller", network.access.quota.max_rate, 0, 1000000),
      check_flag_range("max-request-time", options_.chat.max_request_time.count(), 1, kMany),
      check_flag_range("max-ttft", options_.chat.max_ttft.count(), 0, kMany),
      check_flag_range("shutdown-timeout", options_.shutdown_timeout.count(), 0, kMany),
      check_flag_range("stall-timeout", options_.stall_timeout.count(), 1000, kMany),
      check_flag_range("slow-reader-time", engine.slow_reader_time.count(), 100, kMany),
  };
  for (const absl::Status& status : checks) {
    if (!status.ok()) return status;
  }
  return check_memory_flags(engine);
}

absl::Status ServeFlags::check_access() const {
  const NetworkOptions& network = options_.network;
  const AccessOptions& access = network.access;
  // A variable that somebody's script has left empty must not open a door.
  const std::pair<const char*, const std::string*> files[] = {
      {"ssl-certfile", &network.tls.certificate},
      {"ssl-ca-certs", &network.tls.client_authorities},
      {"api-key-file", &access.api_key_file}};
  for (const auto& [flag, file] : files) {
    if (table_.given(flag) && file->empty()) return refuse_flag(flag, "wants a file, got nothing");
  }
  if (network.tls.certificate.empty() != network.tls.key.empty()) {
    return refuse_flag("ssl-certfile", "wants --ssl-keyfile beside it, and the other way round");
  }
  if (!network.tls.client_authorities.empty() && !network.has_tls()) {
    return refuse_flag("ssl-ca-certs", "wants --ssl-certfile and --ssl-keyfile");
  }
  if (table_.given("ssl-cert-reqs") && network.tls.client_authorities.empty()) {
    return refuse_flag("ssl-cert-reqs", "wants --ssl-ca-certs: whose certificates?");
  }
  if (!access.allowed_names.empty() && network.tls.client_authorities.empty()) {
    return refuse_flag("ssl-allowed-name", "wants --ssl-ca-certs: whose certificates?");
  }
  for (const std::string& name : access.allowed_names) {
    if (name.empty()) return refuse_flag("ssl-allowed-name", "wants a name, got nothing");
  }
  if (access.certificate_suffices && !access.has_keys()) {
    return refuse_flag("ssl-cert-reqs",
                       "optional wants --api-key-file or --api-key: who shows no certificate must "
                       "have a key");
  }
  return absl::OkStatus();
}

absl::Status ServeFlags::check_exposure() const {
  const NetworkOptions& network = options_.network;
  if (network.has_tls() && !network.uds.empty()) {
    return refuse_flag("uds", "a Unix socket is served without TLS");
  }
  if (network.has_tls() && !network.is_one_address()) {
    return refuse_flag("host", "wants an address with TLS, not a name; got " + network.host);
  }
  if (network.is_local() || options_.insecure) return absl::OkStatus();
  if (network.has_tls() && network.asks_who_calls()) return absl::OkStatus();
  return refuse_flag("host",
                     network.host +
                         " can be reached by others: give --ssl-certfile and --ssl-keyfile, and "
                         "--api-key-file or --ssl-ca-certs to know who calls; or --insecure");
}

}  // namespace cogserve
