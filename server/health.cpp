#include "server/health.hpp"

namespace cogserve {

Health::Health(grpc::HealthCheckServiceInterface* service) : service_(service) {
  set_ready(false);
  service_->SetServingStatus("liveness", true);
}

void Health::set_ready(bool ready) {
  service_->SetServingStatus("", ready);
  service_->SetServingStatus("cogserve.v1.CogServe", ready);
}

}  // namespace cogserve
