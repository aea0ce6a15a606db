// What a test makes of a device that it cannot have: skipped if nobody ever had it, but failed if
// it was there, since most errors of CUDA stay and would turn all that follows into skipped tests.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "absl/status/status.h"

namespace cogserve {

// One for a test program.
class DevicePresence {
 public:
  // `seen`: it was there before the program began.
  explicit DevicePresence(bool seen) : seen_(seen) {}

  void found() { seen_ = true; }

  // Skips or fails the running test, which has to return then.
  void missing(const std::string& device, const absl::Status& why) const {
    if (!seen_) {
      GTEST_SKIP() << "no device " << device << ": " << why.message();
    }
    FAIL() << "device " << device << " was there and is gone: " << why.message() << first_failure();
  }

 private:
  // Of this program: that error is the cause, and later ones its echo.
  static std::string first_failure() {
    const ::testing::UnitTest& all = *::testing::UnitTest::GetInstance();
    for (int s = 0; s < all.total_test_suite_count(); ++s) {
      const ::testing::TestSuite& suite = *all.GetTestSuite(s);
      for (int t = 0; t < suite.total_test_count(); ++t) {
        const ::testing::TestInfo& test = *suite.GetTestInfo(t);
        for (int p = 0; p < test.result()->total_part_count(); ++p) {
          const ::testing::TestPartResult& part = test.result()->GetTestPartResult(p);
          if (!part.failed()) continue;
          return std::string("\nThe first failure was that of ") + suite.name() + "." +
                 test.name() + ": " + part.message();
        }
      }
    }
    return "";
  }

  bool seen_;
};

// tests/gpu/run.sh sets the variable when it has found a GPU.
inline DevicePresence& device_presence() {
  static DevicePresence presence(std::getenv("COGSERVE_DEVICE_IS_THERE") != nullptr);
  return presence;
}

}  // namespace cogserve
