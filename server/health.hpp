// grpc.health.v1: "" and cogserve.v1.CogServe say whether calls are taken; "liveness" says only
// that the process is there, and stays SERVING while loading and draining, as long as the server
// listens. Names that are not
// known are NOT_FOUND. A view of the health service inside a grpc::Server, which outlives it.
#pragma once

#include <grpcpp/health_check_service_interface.h>

namespace cogserve {

class Health {
 public:
  // NOT_SERVING from here on.
  explicit Health(grpc::HealthCheckServiceInterface* service);

  void set_ready(bool ready);

 private:
  grpc::HealthCheckServiceInterface* const service_;
};

}  // namespace cogserve
