#include "client/retry.hpp"

#include <gtest/gtest.h>

namespace cogserve::client {
namespace {

using std::chrono::milliseconds;

Error error(Code code, std::optional<milliseconds> retry_after = std::nullopt) {
  return {.code = code, .retry_after = retry_after};
}

TEST(Retry, doubles_the_delay_up_to_five_seconds) {
  const Error unavailable = error(Code::kUnavailable);
  EXPECT_EQ(retry_delay(unavailable, 0, 100, 0.0), milliseconds(100));
  EXPECT_EQ(retry_delay(unavailable, 1, 100, 0.0), milliseconds(200));
  EXPECT_EQ(retry_delay(unavailable, 5, 100, 0.0), milliseconds(3200));
  EXPECT_EQ(retry_delay(unavailable, 99, 100, 0.0), milliseconds(5000));
}

TEST(Retry, jitter_adds_up_to_a_quarter) {
  EXPECT_EQ(retry_delay(error(Code::kUnavailable), 0, 1, 0.8), milliseconds(120));
}

TEST(Retry, the_server_decides_the_delay) {
  const Error full = error(Code::kResourceExhausted, milliseconds(700));
  EXPECT_EQ(retry_delay(full, 0, 3, 0.0), milliseconds(700));
  EXPECT_EQ(retry_delay(full, 2, 3, 0.0), milliseconds(700));
}

TEST(Retry, stops_when_the_retries_are_used_up) {
  EXPECT_EQ(retry_delay(error(Code::kUnavailable), 3, 3, 0.0), std::nullopt);
  EXPECT_EQ(retry_delay(error(Code::kUnavailable), 0, 0, 0.0), std::nullopt);
}

TEST(Retry, only_refusals_that_may_pass_are_worth_another_try) {
  for (int code = 1; code <= 16; ++code) {
    if (static_cast<Code>(code) == Code::kUnavailable) continue;
    EXPECT_EQ(retry_delay(error(static_cast<Code>(code)), 0, 3, 0.0), std::nullopt) << code;
  }
}

}  // namespace
}  // namespace cogserve::client
