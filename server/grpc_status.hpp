// absl::Status to grpc::Status: the one place where an error becomes what a caller reads.
//
// The code is kept. The details carry ErrorInfo (domain "cogvlm2", reason, metadata retryable and,
// where known, limit, got, phase and tokens_delivered), BadRequest for a field at fault,
// QuotaFailure for RESOURCE_EXHAUSTED, RetryInfo for a refusal that may pass, ResourceInfo for
// NOT_FOUND, and RequestInfo. An internal error says only that it happened: its text goes to the
// log under the request id.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/status.h>

#include <string_view>

#include "absl/status/status.h"

namespace cogserve {

inline constexpr char kErrorDomain[] = "cogvlm2";

// `request_id` may be empty (a call that was refused before it had one).
grpc::Status to_grpc_status(const absl::Status& status, std::string_view request_id);

// The same, and the trailer `grpc-retry-pushback-ms` in `context` where a retry may succeed. Logs
// internal errors. Before the call's Finish.
grpc::Status fail_call(const absl::Status& status, std::string_view request_id,
                       grpc::CallbackServerContext* context);

}  // namespace cogserve
