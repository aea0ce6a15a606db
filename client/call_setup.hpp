// What every call of a connection brings along.
#pragma once

#include <grpcpp/client_context.h>

#include <chrono>
#include <string>

namespace cogserve::client {

struct CallSetup {
  std::chrono::system_clock::time_point deadline = std::chrono::system_clock::time_point::max();
  std::string api_key = {};  // empty: none

  void apply(grpc::ClientContext* context) const {
    context->set_deadline(deadline);
    if (!api_key.empty()) context->AddMetadata("authorization", "Bearer " + api_key);
  }
};

}  // namespace cogserve::client
