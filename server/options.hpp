// The flags of `cogserve serve`: read, checked against each other, and turned into what engine,
// server and log are made from.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "command/option_table.hpp"
#include "engine/config.hpp"
#include "server/chat_service.hpp"
#include "server/grpc_server.hpp"
#include "server/memory_flags.hpp"
#include "server/request_limits.hpp"

namespace cogserve {

struct ServeOptions {
  EngineConfig engine;                          // model_dir empty: the demo model
  std::vector<std::string> served_model_names;  // empty: the model directory's name
  std::string tokenizer;                        // a file or its directory; empty: the model's
  std::string chat_template = "auto";           // as the checkpoint says
  int preprocess_threads = 2;
  RequestLimits limits;

  NetworkOptions network;
  ChatServiceOptions chat;
  bool insecure = false;

  bool warmup = true;
  std::chrono::milliseconds shutdown_timeout{120000};
  std::chrono::milliseconds stall_timeout{30000};
  std::string log_level = "info";
  std::string log_format = "text";
};

// Declares the flags of `options` in a table, and completes `options` from what was read.
class ServeFlags {
 public:
  explicit ServeFlags(ServeOptions* options);

  OptionTable& table() { return table_; }

  // After a successful parse. INVALID_ARGUMENT names the flag.
  absl::Status complete();

 private:
  void add_model_flags();
  void add_schedule_flags();
  void add_network_flags();
  void add_access_flags();
  void add_server_flags();
  absl::Status check_ranges() const;
  absl::Status check_access() const;
  absl::Status check_exposure() const;

  ServeOptions& options_;
  OptionTable table_;
  std::string dtype_ = "auto";
  FormatFlags formats_;
  std::string load_format_ = "safetensors";
  std::string rope_dtype_ = "auto";
  uint64_t max_image_bytes_;
  int max_itl_ms_ = 0;
  std::string cert_reqs_ = "required";
  bool reflection_ = true;
};

}  // namespace cogserve
