#include "server/grpc_status.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/base/error.hpp"
#include "server/banner.hpp"
#include "server/readiness.hpp"
#include "tests/server/test_server.hpp"

namespace cogserve {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;
using testing::Not;

TEST(GrpcStatus, keeps_every_code_and_gives_every_error_a_reason_and_the_domain) {
  for (int code = 1; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), "text");
    const CallError error = parse_error(to_grpc_status(status, "id-1"));
    EXPECT_EQ(static_cast<int>(error.code), code);
    EXPECT_FALSE(error.reason.empty()) << code;
    EXPECT_EQ(error.domain, kErrorDomain);
    EXPECT_EQ(error.request_id, "id-1");
    EXPECT_EQ(error.retryable, "false");
  }
}

TEST(GrpcStatus, a_bad_field_brings_its_path_limit_and_value) {
  const absl::Status status = with_limit(
      invalid_argument("PARAM_RANGE", "sampling.top_k", "top_k is wrong"), "0..10", "11");
  const CallError error = parse_error(to_grpc_status(status, ""));
  EXPECT_EQ(error.code, grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(error.message, "top_k is wrong");
  EXPECT_EQ(error.reason, "PARAM_RANGE");
  EXPECT_EQ(error.field, "sampling.top_k");
  EXPECT_EQ(error.limit, "0..10");
  EXPECT_EQ(error.got, "11");
  EXPECT_EQ(error.request_id, "");
}

TEST(GrpcStatus, a_refusal_that_may_pass_says_when_to_come_back) {
  const absl::Status status =
      with_retry_delay(make_error(absl::StatusCode::kResourceExhausted, "QUEUE_FULL", "", "full"),
                       milliseconds(1250));
  const CallError error = parse_error(to_grpc_status(status, ""));
  EXPECT_EQ(error.retry_ms, 1250);
  EXPECT_EQ(error.retryable, "true");
  EXPECT_EQ(error.field, "");
}

TEST(GrpcStatus, a_passed_deadline_says_how_far_the_request_had_come) {
  const absl::Status status = with_phase(
      make_error(absl::StatusCode::kDeadlineExceeded, "QUEUE_TIMEOUT", "", "waited"), "queue");
  EXPECT_EQ(parse_error(to_grpc_status(status, "")).phase, "queue");
  EXPECT_EQ(parse_error(to_grpc_status(absl::DeadlineExceededError("x"), "")).phase, "");
}

TEST(GrpcStatus, not_found_names_the_resource) {
  const absl::Status status =
      make_error(absl::StatusCode::kNotFound, "MODEL_NOT_FOUND", "model", "no such model");
  const CallError error = parse_error(to_grpc_status(status, ""));
  EXPECT_EQ(error.resource, "model");
  EXPECT_EQ(error.field, "");
}

TEST(GrpcStatus, internal_errors_keep_paths_addresses_and_library_text_inside) {
  const std::string secret = "layer.cpp:12 /usr/lib/libx.so 0x7f0012345678 bad thing";
  for (const absl::Status& status :
       {absl::InternalError(secret), absl::UnknownError(secret), absl::DataLossError(secret),
        absl::NotFoundError(secret), absl::InvalidArgumentError(secret),
        absl::ResourceExhaustedError(secret), absl::CancelledError(secret),
        absl::DeadlineExceededError(secret),
        make_error(absl::StatusCode::kInternal, "SEQUENCE_FAULT", "pixels", secret)}) {
    const grpc::Status wire = to_grpc_status(status, "id-2");
    for (const std::string& text : {wire.error_message(), wire.error_details()}) {
      EXPECT_THAT(text, Not(HasSubstr("0x")));
      EXPECT_THAT(text, Not(HasSubstr(".cpp")));
      EXPECT_THAT(text, Not(HasSubstr("/usr")));
      EXPECT_THAT(text, Not(HasSubstr("bad thing")));
    }
  }
  const absl::Status fault = make_error(absl::StatusCode::kInternal, "SEQUENCE_FAULT", "", secret);
  EXPECT_EQ(parse_error(to_grpc_status(fault, "id-2")).reason, "SEQUENCE_FAULT");
}

TEST(GrpcStatus, ok_is_ok) { EXPECT_TRUE(to_grpc_status(absl::OkStatus(), "x").ok()); }

TEST(Readiness, says_why_it_does_not_serve_and_never_goes_back) {
  Readiness readiness;
  EXPECT_EQ(error_reason(readiness.admit()), "LOADING");
  EXPECT_TRUE(error_retry_delay(readiness.admit()).has_value());
  readiness.advance(Readiness::State::kServing);
  EXPECT_TRUE(readiness.admit().ok());
  readiness.advance(Readiness::State::kDraining);
  EXPECT_EQ(error_reason(readiness.admit()), "DRAINING");
  readiness.advance(Readiness::State::kServing);
  EXPECT_EQ(error_reason(readiness.admit()), "DRAINING");
  readiness.advance(Readiness::State::kFailed);
  EXPECT_EQ(error_reason(readiness.admit()), "ENGINE_RESTARTING");
  EXPECT_EQ(readiness.admit().code(), absl::StatusCode::kUnavailable);
}

TEST(GrpcVersion, older_than_1_60_is_named_as_a_risk) {
  EXPECT_TRUE(grpc_is_exposed_to_floods("1.51.1"));
  EXPECT_TRUE(grpc_is_exposed_to_floods("1.59.9"));
  EXPECT_TRUE(grpc_is_exposed_to_floods("garbage"));
  EXPECT_FALSE(grpc_is_exposed_to_floods("1.60.0"));
  EXPECT_FALSE(grpc_is_exposed_to_floods("2.0.0"));
}

}  // namespace
}  // namespace cogserve
