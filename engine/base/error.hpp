// Errors with a stable reason.
//
// Every refusal that a caller can see is an absl::Status with two payloads: an UPPER_SNAKE reason
// (the public contract: `google.rpc.ErrorInfo.reason`) and, where one is at fault, the name of the
// request's field. The engine makes them, `server/grpc_status` turns them into gRPC details.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace cogserve {

// A status with `reason` and, unless empty, `field` attached. The message names the limit and what
// was got; it never quotes the caller's content, addresses or paths.
absl::Status make_error(absl::StatusCode code, std::string_view reason, std::string_view field,
                        std::string_view message);

// INVALID_ARGUMENT, the commonest case.
absl::Status invalid_argument(std::string_view reason, std::string_view field,
                              std::string_view message);

// The same error with `file` before its message, unless that is empty.
absl::Status in_file(const std::string& file, const absl::Status& status);

// Adds the time after which a retry may succeed (RESOURCE_EXHAUSTED and UNAVAILABLE).
absl::Status with_retry_delay(absl::Status status, std::chrono::milliseconds delay);

// About `wait`, within 50 ms and 30 s; spread by `salt`, so that callers refused together do not
// come back together.
std::chrono::milliseconds jittered_delay(std::chrono::nanoseconds wait, uint64_t salt);

// Adds the limit that was passed and the value that passed it, as the caller may read them.
absl::Status with_limit(absl::Status status, std::string_view limit, std::string_view got);

// A time as limits name it: "250 ms", rounded up.
std::string format_ms(std::chrono::nanoseconds time);

// Adds how far the request had come: "queue", "vision", "prefill" or "decode" (DEADLINE_EXCEEDED).
absl::Status with_phase(absl::Status status, std::string_view phase);

// Marks the error of an answer whose first `tokens` the caller has already: no retry, which would
// give them twice.
absl::Status after_tokens(absl::Status status, int64_t tokens);

// Empty when `status` carries none.
std::string error_reason(const absl::Status& status);
std::string error_field(const absl::Status& status);
std::string error_limit(const absl::Status& status);
std::string error_got(const absl::Status& status);
std::string error_phase(const absl::Status& status);
std::string error_tokens(const absl::Status& status);
std::optional<std::chrono::milliseconds> error_retry_delay(const absl::Status& status);

}  // namespace cogserve
