#include "engine/schedule/queue_state.hpp"

#include <gtest/gtest.h>

#include "engine/base/error.hpp"

namespace cogserve {
namespace {

constexpr uint64_t kNobody = 0;
constexpr uint64_t kFlood = 1;
constexpr uint64_t kOther = 2;

class QueueStateTest : public testing::Test {
 protected:
  QueueStateTest() {
    limits.max_queue_size = 16;
    limits.max_queue_bytes = 1600;
  }

  void add(int requests, uint64_t caller, size_t bytes = 1) {
    for (int i = 0; i < requests; ++i) queue.add(caller, bytes);
  }

  // "" or the reason, what it got and the limit.
  std::string refusal(uint64_t caller, size_t more_bytes = 1) {
    const absl::Status status = queue.check_room(limits, caller, more_bytes, 0);
    if (status.ok()) return "";
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_TRUE(error_retry_delay(status).has_value());
    return error_reason(status) + " " + error_got(status) + "/" + error_limit(status);
  }

  SchedulerConfig limits;
  QueueState queue;
};

TEST_F(QueueStateTest, is_full_of_requests_for_everybody) {
  add(8, kNobody);
  add(7, kFlood);
  EXPECT_EQ(refusal(kOther), "");
  add(1, kNobody);
  EXPECT_EQ(refusal(kNobody), "QUEUE_FULL 17/16");
  EXPECT_EQ(refusal(kOther), "QUEUE_FULL 17/16");
  queue.remove(kNobody, 1);
  EXPECT_EQ(queue.requests(), 15);
  EXPECT_EQ(refusal(kNobody), "");
}

TEST_F(QueueStateTest, is_full_of_bytes_for_everybody) {
  add(2, kNobody, 700);
  EXPECT_EQ(refusal(kOther, 200), "");
  EXPECT_EQ(refusal(kOther, 201), "QUEUE_FULL 1601/1600");
  queue.remove(kNobody, 700);
  EXPECT_EQ(refusal(kOther, 900), "");
}

TEST_F(QueueStateTest, takes_anything_while_it_is_empty) {
  EXPECT_EQ(refusal(kNobody, 5000), "");
  EXPECT_EQ(refusal(kFlood, 5000), "");
}

TEST_F(QueueStateTest, a_flood_leaves_a_quarter_of_the_places_that_others_left) {
  add(11, kFlood);
  EXPECT_EQ(refusal(kFlood), "");
  add(1, kFlood);
  EXPECT_EQ(refusal(kFlood), "TENANT_QUOTA 13/12");
  EXPECT_EQ(refusal(kOther), "");
  add(2, kOther);
  EXPECT_EQ(refusal(kOther), "") << "three of the four";
  add(1, kOther);
  EXPECT_EQ(refusal(kOther), "TENANT_QUOTA 4/3");
  EXPECT_EQ(refusal(kFlood), "TENANT_QUOTA 13/9") << "others' count";
  EXPECT_EQ(refusal(3), "") << "who has nothing may have the last place";
  add(1, kNobody);
  EXPECT_EQ(refusal(3), "QUEUE_FULL 17/16");
}

TEST_F(QueueStateTest, a_flood_leaves_a_quarter_of_the_bytes_that_others_left) {
  add(1, kFlood, 1000);
  EXPECT_EQ(refusal(kFlood, 200), "");
  EXPECT_EQ(refusal(kFlood, 201), "TENANT_QUOTA 1201/1200");
  add(1, kOther, 400);
  EXPECT_EQ(refusal(kFlood, 0), "TENANT_QUOTA 1000/900");
  EXPECT_EQ(refusal(kOther, 51), "TENANT_QUOTA 451/450");
  EXPECT_EQ(refusal(3, 200), "");
}

TEST_F(QueueStateTest, what_has_left_counts_no_more) {
  add(12, kFlood, 100);
  EXPECT_EQ(refusal(kFlood, 100), "TENANT_QUOTA 13/12");
  queue.remove(kFlood, 100);
  EXPECT_EQ(refusal(kFlood, 100), "");
  for (int i = 0; i < 11; ++i) queue.remove(kFlood, 100);
  EXPECT_EQ(queue.requests(), 0);
  EXPECT_EQ(refusal(kFlood, 5000), "");
}

TEST_F(QueueStateTest, those_whom_nobody_knows_have_no_share) {
  add(15, kNobody, 100);
  EXPECT_EQ(refusal(kNobody, 100), "");
}

}  // namespace
}  // namespace cogserve
