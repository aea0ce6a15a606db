#include "client/bench/load_driver.hpp"

#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <thread>

#include "client/bench/statistics.hpp"
#include "tests/client/fake_server.hpp"

namespace cogserve::client {
namespace {

// Of one connection, as cogserve's own default.
constexpr int kMaxStreams = 32;

// Lets the test wait until the server has been asked so often.
class CallCounter {
 public:
  void count() {
    const std::lock_guard lock(mutex_);
    ++calls_;
    changed_.notify_all();
  }
  void wait_for(int calls) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return calls_ >= calls; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int calls_ = 0;
};

class LoadDriverTest : public ::testing::Test {
 protected:
  Workload workload(const SessionShape& shape) {
    return Workload({.mix = {{shape, 1.0}}, .picture = {.width = 8, .height = 8}});
  }

  LoadRun run(const SessionShape& shape, const LoadOptions& options) {
    Workload load = workload(shape);
    return LoadDriver(&pool_, &load, options, nullptr).run();
  }

  // Streams three pieces and then hangs.
  void let_the_server_hang() {
    server_.set_handler([this](const v1::ChatRequest&) {
      calls_.count();
      Reply reply;
      reply.deltas = {"a", "b", "c"};
      reply.hang = true;
      return reply;
    });
  }

  CallCounter calls_;
  FakeServer server_{kMaxStreams};
  ConnectionPool pool_{*Client::connect({.target = server_.target(), .retries = 0})};
};

constexpr SessionShape kText{.input_tokens = 3, .output_tokens = 4};

TEST_F(LoadDriverTest, closed_loop_completes_every_request_within_its_concurrency) {
  const LoadRun run_result = run(kText, {.sessions = 50, .max_concurrency = 4});
  const Figures result = figures(run_result.records, run_result.duration_s, {}, {});
  EXPECT_EQ(result.completed, 50);
  EXPECT_LE(result.max_concurrent_requests, 4);
  EXPECT_EQ(result.total_output_tokens, 150);
  EXPECT_EQ(server_.requests().size(), 50U);
  EXPECT_EQ(server_.requests()[0].stopping().max_tokens(), 4);
  for (const Record& record : run_result.records) {
    ASSERT_TRUE(record.ttft_ms.has_value());
    EXPECT_EQ(record.itl_ms.size(), 2U);
    EXPECT_GE(record.e2el_ms, *record.ttft_ms);
  }
}

TEST_F(LoadDriverTest, open_loop_does_not_wait_for_answers) {
  let_the_server_hang();
  Workload load = workload(kText);
  LoadDriver driver(&pool_, &load, {.sessions = 20}, nullptr);
  LoadRun result;
  std::thread thread([&] { result = driver.run(); });
  calls_.wait_for(20);  // all under way although none has ended
  driver.stop();
  thread.join();
  EXPECT_EQ(result.records.size(), 20U);
}

TEST_F(LoadDriverTest, open_loop_goes_beyond_the_servers_limit_of_streams_on_one_connection) {
  constexpr int kCalls = 10 * kMaxStreams;
  let_the_server_hang();
  Workload load = workload(kText);
  LoadDriver driver(&pool_, &load, {.sessions = kCalls}, nullptr);
  LoadRun result;
  std::thread thread([&] { result = driver.run(); });
  calls_.wait_for(kCalls);  // none waits inside the client
  driver.stop();
  thread.join();
  EXPECT_EQ(result.connections, 20U);
}

TEST_F(LoadDriverTest, open_loop_says_how_late_each_request_was_sent) {
  const SessionShape picture{.image = true, .input_tokens = 2, .output_tokens = 4};
  const LoadRun result = run(picture, {.sessions = 3});
  ASSERT_EQ(result.records.size(), 3U);
  for (const Record& record : result.records) {
    ASSERT_TRUE(record.send_delay_ms.has_value());
    EXPECT_NEAR(*record.send_delay_ms, record.sent_s * 1000, 1e-3);  // all were due at the start
  }
}

TEST_F(LoadDriverTest, closed_loop_has_no_time_when_a_request_is_due) {
  const LoadRun result = run(kText, {.sessions = 3, .max_concurrency = 1});
  for (const Record& record : result.records) EXPECT_FALSE(record.send_delay_ms.has_value());
}

TEST_F(LoadDriverTest, turns_of_a_session_carry_the_conversation) {
  const SessionShape turns{.image = true, .turns = 3, .input_tokens = 2, .output_tokens = 4};
  const LoadRun result = run(turns, {.sessions = 1, .max_concurrency = 1});
  EXPECT_EQ(result.records.size(), 3U);
  const auto sent = server_.requests();
  ASSERT_EQ(sent.size(), 3U);
  EXPECT_EQ(sent[2].messages_size(), 5);
  EXPECT_FALSE(sent[2].messages(0).parts(0).image().empty());
  EXPECT_EQ(sent[2].messages(3).role(), v1::ROLE_ASSISTANT);
}

TEST_F(LoadDriverTest, failures_are_counted_by_code_and_reason) {
  server_.set_handler([](const v1::ChatRequest&) {
    Reply reply;
    reply.code = 8;
    reply.reason = "QUEUE_FULL";
    return reply;
  });
  const LoadRun result = run(kText, {.sessions = 10, .max_concurrency = 2});
  const Figures counted = figures(result.records, result.duration_s, {}, {});
  EXPECT_EQ(counted.failed, 10);
  EXPECT_EQ(counted.failures.at("RESOURCE_EXHAUSTED QUEUE_FULL"), 10);
}

TEST_F(LoadDriverTest, a_server_that_dies_fails_requests_and_not_the_driver) {
  let_the_server_hang();
  Workload load = workload(kText);
  LoadDriver driver(&pool_, &load, {.sessions = 12, .max_concurrency = 4}, nullptr);
  LoadRun result;
  std::thread thread([&] { result = driver.run(); });
  calls_.wait_for(4);
  server_.stop();
  thread.join();
  EXPECT_EQ(figures(result.records, result.duration_s, {}, {}).failed, 12);
}

TEST_F(LoadDriverTest, cancelled_requests_are_cancelled_half_way_and_are_no_failures) {
  let_the_server_hang();
  const LoadRun result = run(kText, {.sessions = 6, .max_concurrency = 3, .cancel_rate = 1.0});
  const Figures counted = figures(result.records, result.duration_s, {}, {});
  EXPECT_EQ(counted.cancelled, 6);
  EXPECT_EQ(counted.failed, 0);
}

TEST_F(LoadDriverTest, stop_ends_a_run_that_would_never_end) {
  let_the_server_hang();
  Workload load = workload(kText);
  LoadDriver driver(&pool_, &load, {.max_concurrency = 3}, nullptr);
  LoadRun result;
  std::thread thread([&] { result = driver.run(); });
  calls_.wait_for(3);
  driver.stop();
  thread.join();
  const Figures counted = figures(result.records, result.duration_s, {}, {});
  EXPECT_EQ(counted.interrupted, 3);
  EXPECT_EQ(counted.cancelled, 0);
}

TEST_F(LoadDriverTest, nothing_starts_after_the_duration) {
  // Due in about 300 years: the run ends when its time is up, not when they are.
  const LoadRun result =
      run(kText, {.duration = std::chrono::milliseconds(20), .request_rate = 1e-10});
  EXPECT_EQ(result.records.size(), 0U);
}

TEST_F(LoadDriverTest, a_session_that_cannot_be_made_ends_the_run_with_its_error) {
  Workload load({.mix = {{kText, 1.0}}, .custom = {{"what?", "/no/such/picture.jpg"}}});
  LoadDriver driver(&pool_, &load, {.sessions = 3, .max_concurrency = 1}, nullptr);
  const LoadRun result = driver.run();
  ASSERT_TRUE(result.error.has_value());
  EXPECT_EQ(result.error->reason, "FILE_READ");
}

TEST_F(LoadDriverTest, progress_ends_with_everything_done) {
  Workload load = workload(kText);
  LoadProgress last;
  LoadDriver driver(&pool_, &load, {.sessions = 5, .max_concurrency = 1},
                    [&](const LoadProgress& progress) { last = progress; });
  EXPECT_EQ(*driver.prepare(100), 5U);
  driver.run();
  EXPECT_EQ(last.done, 5U);
  EXPECT_EQ(last.in_flight, 0U);
}

TEST(ConnectionPoolTest, opens_a_connection_when_all_are_full_and_fills_the_emptiest) {
  ConnectionPool pool(*Client::connect({}));
  std::vector<Client*> taken;
  for (int i = 0; i < 2 * ConnectionPool::kCallsEach; ++i) taken.push_back(&pool.take());
  EXPECT_EQ(pool.size(), 2U);
  pool.give_back(*taken.front());
  EXPECT_EQ(&pool.take(), taken.front());
  EXPECT_EQ(pool.size(), 2U);
  pool.take();
  EXPECT_EQ(pool.size(), 3U);
}

TEST(ConnectionPoolTest, a_fixed_number_is_spread_over_and_kept) {
  ConnectionPool pool(*Client::connect({}), 2);
  EXPECT_EQ(pool.size(), 2U);
  EXPECT_NE(&pool.take(), &pool.take());
  for (int i = 0; i < 4 * ConnectionPool::kCallsEach; ++i) pool.take();
  EXPECT_EQ(pool.size(), 2U);
}

}  // namespace
}  // namespace cogserve::client
