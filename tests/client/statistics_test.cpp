#include "client/bench/statistics.hpp"

#include <gtest/gtest.h>

namespace cogserve::client {
namespace {

Record completed(double ttft_ms, double e2el_ms, int output_tokens) {
  Record record;
  record.ttft_ms = ttft_ms;
  record.e2el_ms = e2el_ms;
  record.prompt_tokens = 100;
  record.output_tokens = output_tokens;
  return record;
}

Record failed(const std::string& failure) {
  Record record;
  record.outcome = Record::Outcome::kFailed;
  record.failure = failure;
  record.prompt_tokens = 1000;
  return record;
}

TEST(Statistics, percentiles_interpolate_between_the_closest_ranks) {
  const std::vector<double> values = {1, 2, 3, 4};
  EXPECT_DOUBLE_EQ(percentile(values, 0), 1);
  EXPECT_DOUBLE_EQ(percentile(values, 50), 2.5);
  EXPECT_DOUBLE_EQ(percentile(values, 90), 3.7);
  EXPECT_DOUBLE_EQ(percentile(values, 100), 4);
  EXPECT_DOUBLE_EQ(percentile({7}, 99), 7);
}

TEST(Statistics, describes_values_in_any_order) {
  const Distribution distribution = describe({4, 2, 5, 9, 4, 4, 7, 5}, {50, 99.9});
  EXPECT_DOUBLE_EQ(distribution.mean, 5);
  EXPECT_DOUBLE_EQ(distribution.std, 2);
  EXPECT_DOUBLE_EQ(distribution.median, 4.5);
  ASSERT_EQ(distribution.percentiles.size(), 2U);
  EXPECT_DOUBLE_EQ(distribution.percentiles[0].second, 4.5);
  EXPECT_DOUBLE_EQ(distribution.percentiles[1].first, 99.9);
}

TEST(Statistics, nothing_measured_is_zero_not_a_crash) {
  const Distribution distribution = describe({}, {99});
  EXPECT_EQ(distribution.mean, 0);
  EXPECT_EQ(distribution.percentiles.at(0).second, 0);
  const Figures empty = figures({}, 0, {99}, {});
  EXPECT_EQ(empty.completed, 0);
  EXPECT_EQ(empty.per_second(5), 0);
}

TEST(Statistics, tpot_is_the_time_after_the_first_token_over_the_tokens_after_it) {
  EXPECT_DOUBLE_EQ(*completed(100, 500, 5).tpot_ms(), 100);
  EXPECT_FALSE(completed(100, 500, 1).tpot_ms().has_value());
  Record silent = completed(100, 500, 5);
  silent.ttft_ms.reset();
  EXPECT_FALSE(silent.tpot_ms().has_value());
}

TEST(Statistics, throughput_counts_completed_requests_only) {
  std::vector<Record> records = {completed(10, 100, 20), completed(20, 200, 30),
                                 failed("UNAVAILABLE"), failed("UNAVAILABLE"),
                                 failed("RESOURCE_EXHAUSTED QUEUE_FULL")};
  Record cancelled = completed(10, 50, 5);
  cancelled.outcome = Record::Outcome::kCancelled;
  records.push_back(cancelled);
  const Figures result = figures(records, 10, {50}, {});
  EXPECT_EQ(result.completed, 2);
  EXPECT_EQ(result.failed, 3);
  EXPECT_EQ(result.cancelled, 1);
  EXPECT_EQ(result.failures.at("UNAVAILABLE"), 2);
  EXPECT_EQ(result.failures.at("RESOURCE_EXHAUSTED QUEUE_FULL"), 1);
  EXPECT_EQ(result.total_input_tokens, 200);
  EXPECT_EQ(result.total_output_tokens, 50);
  EXPECT_DOUBLE_EQ(result.per_second(result.total_output_tokens), 5);
  EXPECT_DOUBLE_EQ(result.metrics.at("e2el").mean, 150);
  EXPECT_DOUBLE_EQ(result.metrics.at("ttft").median, 15);
}

TEST(Statistics, interrupted_requests_are_neither_completed_nor_cancelled) {
  Record record = completed(10, 50, 5);
  record.outcome = Record::Outcome::kInterrupted;
  const Figures result = figures({record}, 10, {}, {});
  EXPECT_EQ(result.interrupted, 1);
  EXPECT_EQ(result.completed + result.cancelled + result.failed, 0);
  EXPECT_EQ(result.total_output_tokens, 0);
}

TEST(Statistics, the_longest_send_delay_is_that_of_all_requests) {
  Record late = failed("UNAVAILABLE");
  late.send_delay_ms = 7;
  Record punctual = completed(10, 100, 20);
  punctual.send_delay_ms = 0.5;
  EXPECT_EQ(figures({punctual, late}, 1, {}, {}).max_send_delay_ms, 7);
  EXPECT_FALSE(figures({completed(10, 100, 20)}, 1, {}, {}).max_send_delay_ms.has_value());
}

TEST(Statistics, vision_times_and_images_are_those_of_requests_with_a_picture) {
  Record with_picture = completed(10, 100, 20);
  with_picture.image_tokens = 38;
  with_picture.vision_ms = 40;
  const Figures result = figures({with_picture, completed(10, 100, 20)}, 2, {}, {});
  EXPECT_EQ(result.images, 1);
  EXPECT_DOUBLE_EQ(result.metrics.at("vision").mean, 40);
}

TEST(Statistics, concurrency_is_the_most_requests_under_way_at_once) {
  Record first = completed(1, 1000, 2);
  Record second = completed(1, 1000, 2);
  Record third = completed(1, 1000, 2);
  second.sent_s = 0.5;
  third.sent_s = 1.0;  // begins as the first ends
  EXPECT_EQ(figures({first, second, third}, 2, {}, {}).max_concurrent_requests, 2);
}

TEST(Goodput, counts_requests_that_keep_every_limit) {
  const auto limits = parse_goodput("ttft:200 tpot:50");
  ASSERT_TRUE(limits.ok());
  EXPECT_TRUE(limits->holds(completed(200, 400, 5)));
  EXPECT_FALSE(limits->holds(completed(201, 400, 5)));
  EXPECT_FALSE(limits->holds(completed(100, 500, 5)));
  EXPECT_TRUE(limits->holds(completed(100, 5000, 1)));
  Record silent = completed(100, 400, 5);
  silent.ttft_ms.reset();
  EXPECT_FALSE(limits->holds(silent));
  const Figures result = figures({completed(200, 400, 5), completed(201, 400, 5)}, 4, {}, *limits);
  EXPECT_DOUBLE_EQ(result.per_second(result.good), 0.25);
}

TEST(Goodput, reads_pairs_and_names_the_one_it_cannot_read) {
  EXPECT_FALSE(parse_goodput("")->any());
  const auto limits = parse_goodput("ttft:2000,tpot:60.5  e2el:9");
  EXPECT_EQ(limits->ttft_ms, 2000);
  EXPECT_EQ(limits->tpot_ms, 60.5);
  EXPECT_EQ(limits->e2el_ms, 9);
  for (const char* wrong : {"ttft", "ttft:", "ttft:x", "ttft:1s", "itl:5", "tpot:-1", "ttft:nan"}) {
    const auto refused = parse_goodput(wrong);
    ASSERT_FALSE(refused.ok()) << wrong;
    EXPECT_NE(refused.error().message.find(wrong), std::string::npos);
  }
}

}  // namespace
}  // namespace cogserve::client
