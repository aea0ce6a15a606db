#include "client/status_details.hpp"

#include <google/protobuf/any.pb.h>
#include <grpcpp/support/status.h>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace cogserve::client {
namespace {

void add_detail(const google::protobuf::Any& detail, Error* error) {
  google::rpc::ErrorInfo info;
  google::rpc::BadRequest bad_request;
  google::rpc::RetryInfo retry;
  google::rpc::ResourceInfo resource;
  google::rpc::RequestInfo request;
  if (detail.Is<google::rpc::ErrorInfo>() && detail.UnpackTo(&info)) {
    error->reason = info.reason();
    error->metadata.insert(info.metadata().begin(), info.metadata().end());
  } else if (detail.Is<google::rpc::BadRequest>() && detail.UnpackTo(&bad_request)) {
    if (bad_request.field_violations_size() > 0) {
      error->field = bad_request.field_violations(0).field();
    }
  } else if (detail.Is<google::rpc::ResourceInfo>() && detail.UnpackTo(&resource)) {
    // NOT_FOUND: the field that names the thing.
    error->field = resource.resource_type();
  } else if (detail.Is<google::rpc::RetryInfo>() && detail.UnpackTo(&retry)) {
    error->retry_after = std::chrono::milliseconds(retry.retry_delay().seconds() * 1000 +
                                                   retry.retry_delay().nanos() / 1'000'000);
  } else if (detail.Is<google::rpc::RequestInfo>() && detail.UnpackTo(&request)) {
    error->request_id = request.request_id();
  }
}

}  // namespace

Error to_error(const grpc::Status& status) {
  Error error;
  error.code = static_cast<Code>(status.error_code());
  error.message = status.error_message();
  google::rpc::Status details;
  if (!status.error_details().empty() && details.ParseFromString(status.error_details())) {
    for (const auto& detail : details.details()) add_detail(detail, &error);
  }
  return error;
}

}  // namespace cogserve::client
