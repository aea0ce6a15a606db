#include "server/grpc_status.hpp"

#include <string>

#include "engine/base/error.hpp"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "server/log.hpp"

namespace cogserve {
namespace {

// What each code says when the error brings no reason, and whether its text is for callers.
struct CodeRule {
  const char* reason;
  bool text_is_public;
};

CodeRule rule_of(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kCancelled:
      return {"CANCELLED", true};
    case absl::StatusCode::kInvalidArgument:
      return {"INVALID_ARGUMENT", true};
    case absl::StatusCode::kDeadlineExceeded:
      return {"DEADLINE_EXCEEDED", true};
    case absl::StatusCode::kNotFound:
      return {"NOT_FOUND", true};
    case absl::StatusCode::kPermissionDenied:
      return {"PERMISSION_DENIED", true};
    case absl::StatusCode::kResourceExhausted:
      return {"RESOURCE_EXHAUSTED", true};
    case absl::StatusCode::kFailedPrecondition:
      return {"FAILED_PRECONDITION", true};
    case absl::StatusCode::kAborted:
      return {"ABORTED", true};
    case absl::StatusCode::kUnimplemented:
      return {"UNIMPLEMENTED", true};
    case absl::StatusCode::kUnavailable:
      return {"UNAVAILABLE", true};
    case absl::StatusCode::kUnauthenticated:
      return {"UNAUTHENTICATED", true};
    default:
      return {"INTERNAL", false};
  }
}

// Only errors that were made for callers carry a reason; any other text stays inside.
bool is_public(const absl::Status& status) {
  return rule_of(status.code()).text_is_public && !error_reason(status).empty();
}

std::string public_reason(const absl::Status& status) {
  const std::string reason = error_reason(status);
  return reason.empty() ? rule_of(status.code()).reason : reason;
}

std::string public_message(const absl::Status& status, std::string_view request_id) {
  if (is_public(status)) return std::string(status.message());
  if (status.code() == absl::StatusCode::kCancelled) return "the call was cancelled";
  if (status.code() == absl::StatusCode::kDeadlineExceeded) return "the deadline has passed";
  std::string message = "the server failed to handle this request";
  if (!request_id.empty()) message += "; its log has more under " + std::string(request_id);
  return message;
}

// What the caller is not told, the operator is.
bool needs_log(const absl::Status& status) {
  return !is_public(status) && status.code() != absl::StatusCode::kCancelled &&
         status.code() != absl::StatusCode::kDeadlineExceeded;
}

template <typename Detail>
void add_detail(const Detail& detail, google::rpc::Status* to) {
  to->add_details()->PackFrom(detail);
}

void add_error_info(const absl::Status& status, google::rpc::Status* to) {
  google::rpc::ErrorInfo info;
  info.set_reason(public_reason(status));
  info.set_domain(kErrorDomain);
  auto& metadata = *info.mutable_metadata();
  if (const std::string limit = error_limit(status); !limit.empty()) metadata["limit"] = limit;
  if (const std::string got = error_got(status); !got.empty()) metadata["got"] = got;
  if (const std::string phase = error_phase(status); !phase.empty()) metadata["phase"] = phase;
  if (const std::string tokens = error_tokens(status); !tokens.empty()) {
    metadata["tokens_delivered"] = tokens;
  }
  metadata["retryable"] = error_retry_delay(status).has_value() ? "true" : "false";
  add_detail(info, to);
}

void add_resource_info(const absl::Status& status, google::rpc::Status* to) {
  google::rpc::ResourceInfo resource;
  resource.set_resource_type(error_field(status));
  resource.set_resource_name(error_got(status));
  resource.set_description(to->message());
  add_detail(resource, to);
}

void add_bad_request(const absl::Status& status, google::rpc::Status* to) {
  google::rpc::BadRequest bad_request;
  auto* violation = bad_request.add_field_violations();
  violation->set_field(error_field(status));
  violation->set_description(to->message());
  add_detail(bad_request, to);
}

// The reason says which of the server's quotas it was.
void add_quota_failure(const absl::Status& status, google::rpc::Status* to) {
  google::rpc::QuotaFailure failure;
  auto* violation = failure.add_violations();
  violation->set_subject(public_reason(status));
  violation->set_description(to->message());
  add_detail(failure, to);
}

void add_retry_info(std::chrono::milliseconds delay, google::rpc::Status* to) {
  google::rpc::RetryInfo retry;
  const int64_t ms = delay.count();
  retry.mutable_retry_delay()->set_seconds(ms / 1000);
  retry.mutable_retry_delay()->set_nanos(static_cast<int32_t>(ms % 1000) * 1000000);
  add_detail(retry, to);
}

void add_request_info(std::string_view request_id, google::rpc::Status* to) {
  google::rpc::RequestInfo request;
  request.set_request_id(std::string(request_id));
  add_detail(request, to);
}

}  // namespace

grpc::Status to_grpc_status(const absl::Status& status, std::string_view request_id) {
  if (status.ok()) return grpc::Status::OK;
  google::rpc::Status details;
  details.set_code(static_cast<int>(status.code()));
  details.set_message(public_message(status, request_id));
  add_error_info(status, &details);
  if (is_public(status) && !error_field(status).empty()) {
    if (status.code() == absl::StatusCode::kNotFound) {
      add_resource_info(status, &details);
    } else {
      add_bad_request(status, &details);
    }
  }
  if (status.code() == absl::StatusCode::kResourceExhausted) add_quota_failure(status, &details);
  if (const auto delay = error_retry_delay(status); delay.has_value()) {
    add_retry_info(*delay, &details);
  }
  if (!request_id.empty()) add_request_info(request_id, &details);
  // Both enumerations number the codes as google.rpc.Code does.
  return {static_cast<grpc::StatusCode>(status.code()), details.message(),
          details.SerializeAsString()};
}

grpc::Status fail_call(const absl::Status& status, std::string_view request_id,
                       grpc::CallbackServerContext* context) {
  if (!status.ok() && needs_log(status)) {
    const std::string text(status.message());
    log_event(LogLevel::kError, "request.failed",
              {{"id", request_id}, {"reason", public_reason(status)}, {"what", text}});
  }
  if (const auto delay = error_retry_delay(status); delay.has_value()) {
    context->AddTrailingMetadata("grpc-retry-pushback-ms", std::to_string(delay->count()));
  }
  return to_grpc_status(status, request_id);
}

}  // namespace cogserve
