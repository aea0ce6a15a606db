// A device that tests cannot have: never there, or lost on the way.
#include "tests/engine/device_presence.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest-spi.h>

#include <functional>

namespace cogserve {
namespace {

using ::testing::HasSubstr;

const absl::Status kGone = absl::FailedPreconditionError("cudaErrorIllegalAddress");

// What a test that runs `body` would have on its record.
::testing::TestPartResult result_of(const std::function<void()>& body) {
  ::testing::TestPartResultArray results;
  {
    ::testing::ScopedFakeTestPartResultReporter reporter(
        ::testing::ScopedFakeTestPartResultReporter::INTERCEPT_ONLY_CURRENT_THREAD, &results);
    body();
  }
  EXPECT_EQ(results.size(), 1);
  return results.GetTestPartResult(0);
}

TEST(DevicePresence, a_device_that_nobody_ever_had_skips_the_test) {
  const DevicePresence presence(false);
  const auto result = result_of([&] { presence.missing("cuda:0", kGone); });
  EXPECT_TRUE(result.skipped());
  EXPECT_THAT(result.message(), HasSubstr("no device cuda:0: cudaErrorIllegalAddress"));
}

TEST(DevicePresence, a_device_that_an_earlier_test_had_fails_the_test) {
  DevicePresence presence(false);
  presence.found();
  const auto result = result_of([&] { presence.missing("cuda:0", kGone); });
  EXPECT_TRUE(result.fatally_failed());
  EXPECT_THAT(result.message(), HasSubstr("was there and is gone: cudaErrorIllegalAddress"));
}

TEST(DevicePresence, a_device_that_was_there_before_the_program_fails_the_test) {
  const DevicePresence presence(true);
  EXPECT_TRUE(result_of([&] { presence.missing("cuda:0", kGone); }).fatally_failed());
}

}  // namespace
}  // namespace cogserve
