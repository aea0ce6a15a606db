#include "server/plan.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "engine/base/json.hpp"
#include "server/serve.hpp"

namespace cogserve {
namespace {

using testing::HasSubstr;

struct Printed {
  int code = 0;
  std::string out;
  std::string err;
};

Printed plan(const std::vector<std::string>& arguments) {
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  Printed printed;
  printed.code = run_plan(arguments);
  printed.out = testing::internal::GetCapturedStdout();
  printed.err = testing::internal::GetCapturedStderr();
  return printed;
}

// Without --model it is the demo model that is planned for.
TEST(Plan, a_model_that_fits_is_a_table_and_success) {
  const Printed printed = plan({"--gpu-memory", "4GB"});
  EXPECT_EQ(printed.code, 0) << printed.err;
  for (const char* part : {"weights, decoder", "KV cache", "picture features",
                           "of 3060.48 MB: fits", "pictures of 18 tokens"}) {
    EXPECT_THAT(printed.out, HasSubstr(part));
  }
}

TEST(Plan, one_that_does_not_fit_is_the_same_table_and_a_failure) {
  const Printed printed = plan({"--gpu-memory", "1GB"});
  EXPECT_EQ(printed.code, kExitStartup);
  EXPECT_THAT(printed.out, HasSubstr("does not fit"));
  EXPECT_THAT(printed.out, HasSubstr("weights, decoder"));
}

TEST(Plan, json_has_the_same_figures_in_bytes) {
  const Printed printed =
      plan({"--gpu-memory", "4GB", "--kv-cache-memory-bytes", "1MiB", "--json"});
  EXPECT_EQ(printed.code, 0) << printed.err;
  const auto json = parse_json(printed.out);
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_GT((*json)["kv_cache"], 1 << 20);
  EXPECT_EQ((*json)["fits"], true);
  int64_t sum = 0;
  for (const char* key : {"weights_decoder", "weights_vision_tower", "workspace_decoder",
                          "workspace_vision_tower", "backend", "picture_features", "kv_cache"}) {
    sum += (*json)[key].get<int64_t>();
  }
  EXPECT_EQ((*json)["total"], sum);
}

TEST(Plan, wrong_flags_and_devices_are_named) {
  EXPECT_EQ(plan({"--gpu-memory-utilization", "2"}).code, kExitUsage);
  const Printed word = plan({"everything"});
  EXPECT_EQ(word.code, kExitUsage);
  EXPECT_THAT(word.err, HasSubstr("everything"));
  const Printed device = plan({"--device", "cuda:999"});
  EXPECT_EQ(device.code, kExitStartup);
  EXPECT_THAT(device.err, HasSubstr("--gpu-memory"));
  const Printed model = plan({"--model", "/nonexistent", "--gpu-memory", "4GB"});
  EXPECT_EQ(model.code, kExitStartup);
  EXPECT_THAT(model.err, HasSubstr("/nonexistent"));
}

}  // namespace
}  // namespace cogserve
