// What an operator should know when the server begins to serve: model, memory, limits, addresses,
// library versions, and the risks that were accepted.
#pragma once

#include <chrono>
#include <string>

#include "server/options.hpp"
#include "server/served_model.hpp"

namespace cogserve {

// "127.0.0.1:8001" with the port that was bound.
std::string bound_address(const NetworkOptions& network, int port);

// gRPC below 1.60 burns CPU on header floods (CVE-2023-33953, CVE-2023-4785, CVE-2023-1428).
bool grpc_is_exposed_to_floods(const std::string& grpc_version);

void write_banner(const ServeOptions& options, const ServedModel& model, int port,
                  std::chrono::nanoseconds load_time);

}  // namespace cogserve
