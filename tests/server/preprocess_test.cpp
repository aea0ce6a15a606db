#include "server/preprocess.hpp"

#include <gtest/gtest.h>

#include <future>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "engine/base/error.hpp"
#include "tests/server/fake_engine.hpp"
#include "tests/server/image_files.hpp"

namespace cogserve {
namespace {

text::Tokenizer test_tokenizer() {
  return *text::Tokenizer::load(std::string(COGSERVE_SOURCE_DIR) + "/models/demo/tokenizer.json");
}

using Result = absl::StatusOr<Submission>;

// One thread, unless a test says otherwise, held by a job that waits for `open`.
class PreprocessTest : public testing::Test {
 protected:
  PreprocessTest() { make_pool(1); }

  void make_pool(int threads) {
    PreprocessLimits pool;
    pool.threads = threads;
    pool.max_queued_pictures = 3;
    pool.max_queued_texts = 2;
    preprocessor = std::make_unique<Preprocessor>(&engine, &tokenizer, RequestLimits(), 1, pool);
  }

  void TearDown() override { release(); }

  // Returns once the pool's thread is inside the job, between two of its stages.
  void occupy() {
    std::promise<void> entered;
    PreprocessJob job = make_job(true);
    job.request.image = image::testing::flat_png(8, 8);
    job.cancelled = [this, &entered, started = false]() mutable {
      if (!std::exchange(started, true)) return false;
      entered.set_value();
      gate_future.wait();
      return true;
    };
    results.emplace_back();
    job.done = [result = &results.back()](Result end) { result->set_value(std::move(end)); };
    EXPECT_TRUE(preprocessor->submit(std::move(job)).ok());
    entered.get_future().wait();
  }

  void release() {
    if (!std::exchange(released, true)) gate.set_value();
  }

  static PreprocessJob make_job(bool picture) {
    PreprocessJob job;
    job.request.turns = {{text::Role::kUser, "x"}};
    job.request.has_image = picture;
    job.request.image = picture ? "no picture" : "";
    job.request.image_field = "messages[0].parts[1].image";
    job.cancelled = [] { return false; };
    return job;
  }

  static PreprocessJob job_of(uint64_t caller, bool picture) {
    PreprocessJob job = make_job(picture);
    job.caller = caller;
    return job;
  }

  absl::Status submit(PreprocessJob job) {
    results.emplace_back();
    job.done = [this, caller = job.caller, result = &results.back()](Result end) {
      {
        const std::lock_guard lock(mutex);
        ended.push_back(caller);
      }
      result->set_value(std::move(end));
    };
    const absl::Status status = preprocessor->submit(std::move(job));
    if (!status.ok()) results.pop_back();
    return status;
  }

  // Whose jobs ended, the first one's that `occupy` began left out. Of one thread.
  std::vector<uint64_t> order_of_ends() {
    release();
    for (std::promise<Result>& result : results) result.get_future().wait();
    return ended;
  }

  Result last_result() { return results.back().get_future().get(); }

  FakeEngine engine;
  text::Tokenizer tokenizer = test_tokenizer();
  std::deque<std::promise<Result>> results;
  std::mutex mutex;
  std::vector<uint64_t> ended;  // whose
  std::promise<void> gate;
  std::shared_future<void> gate_future{gate.get_future()};
  bool released = false;
  std::unique_ptr<Preprocessor> preprocessor;
};

TEST_F(PreprocessTest, a_full_queue_of_pictures_refuses_pictures_and_still_takes_text) {
  occupy();
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(submit(make_job(true)).ok());
  const absl::Status refused = submit(make_job(true));
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(error_reason(refused), "DECODE_QUEUE");
  EXPECT_TRUE(error_retry_delay(refused).has_value());
  EXPECT_EQ(error_limit(refused), "3");
  EXPECT_TRUE(submit(make_job(false)).ok());
  EXPECT_TRUE(submit(make_job(false)).ok());
  EXPECT_EQ(error_reason(submit(make_job(false))), "QUEUE_FULL");
  release();
  EXPECT_TRUE(last_result().ok());
  EXPECT_TRUE(submit(make_job(true)).ok());
}

TEST_F(PreprocessTest, a_caller_leaves_room_to_others) {
  occupy();
  EXPECT_TRUE(submit(job_of(1, false)).ok());
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(submit(job_of(1, true)).ok()) << "texts are not pictures";
  const absl::Status refused = submit(job_of(1, true));
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(error_reason(refused), "TENANT_QUOTA");
  EXPECT_EQ(error_limit(refused), "2");
  EXPECT_EQ(error_got(refused), "3");
  const auto delay = error_retry_delay(refused).value_or(std::chrono::milliseconds(0));
  EXPECT_GE(delay, std::chrono::milliseconds(174));  // two pictures, an eighth less
  EXPECT_LE(delay, std::chrono::milliseconds(226));
  EXPECT_EQ(error_reason(submit(job_of(1, false))), "TENANT_QUOTA") << "one of two texts";
  EXPECT_TRUE(submit(job_of(2, true)).ok());
  EXPECT_EQ(error_reason(submit(job_of(3, true))), "DECODE_QUEUE");
  EXPECT_EQ(error_reason(submit(job_of(2, true))), "DECODE_QUEUE") << "full, whosever it is";
}

TEST_F(PreprocessTest, what_others_hold_is_not_shared) {
  occupy();
  EXPECT_TRUE(submit(job_of(2, true)).ok());
  EXPECT_TRUE(submit(job_of(1, true)).ok());
  EXPECT_EQ(error_reason(submit(job_of(1, true))), "TENANT_QUOTA")
      << "one of the two that are left";
}

TEST_F(PreprocessTest, callers_take_turns) {
  occupy();
  for (const auto& [caller, picture] :
       {std::pair(1, true), {1, true}, {1, false}, {2, true}, {3, false}}) {
    ASSERT_TRUE(submit(job_of(caller, picture)).ok());
  }
  EXPECT_EQ(order_of_ends(), (std::vector<uint64_t>{1, 2, 3, 1, 1}));
}

TEST_F(PreprocessTest, a_cancelled_job_takes_no_turn) {
  occupy();
  ASSERT_TRUE(submit(job_of(1, true)).ok());
  PreprocessJob cancelled = job_of(2, true);
  cancelled.cancelled = [] { return true; };
  ASSERT_TRUE(submit(std::move(cancelled)).ok());
  ASSERT_TRUE(submit(job_of(1, false)).ok());
  ASSERT_TRUE(submit(job_of(2, false)).ok());
  EXPECT_EQ(order_of_ends(), (std::vector<uint64_t>{1, 2, 2, 1}));
}

TEST_F(PreprocessTest, those_who_are_refused_together_do_not_come_back_together) {
  occupy();
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(submit(make_job(true)).ok());
  std::set<std::chrono::milliseconds> delays;
  for (int i = 0; i < 20; ++i) delays.insert(error_retry_delay(submit(make_job(true))).value());
  EXPECT_GT(delays.size(), 10u);
  EXPECT_GE(*delays.begin(), std::chrono::milliseconds(262));  // three pictures, an eighth less
  EXPECT_LE(*delays.rbegin(), std::chrono::milliseconds(338));
}

TEST_F(PreprocessTest, the_engine_learns_whose_a_request_is_and_how_long_it_waited) {
  occupy();
  PreprocessJob job = make_job(false);
  job.caller = 7;
  ASSERT_TRUE(submit(std::move(job)).ok());
  const Clock::time_point begin = Clock::now();
  while (Clock::now() - begin < std::chrono::milliseconds(5)) std::this_thread::yield();
  release();
  ASSERT_TRUE(last_result().ok());
  EXPECT_EQ(engine.last_request().caller, 7u);
  EXPECT_GE(engine.last_request().waited, std::chrono::milliseconds(5));
}

TEST_F(PreprocessTest, a_cancelled_or_late_job_never_reaches_the_engine) {
  occupy();
  PreprocessJob cancelled = make_job(false);
  cancelled.cancelled = [] { return true; };
  ASSERT_TRUE(submit(std::move(cancelled)).ok());
  release();
  EXPECT_EQ(last_result().status().code(), absl::StatusCode::kCancelled);

  PreprocessJob late = make_job(true);
  late.deadline = Clock::now() - std::chrono::seconds(1);
  ASSERT_TRUE(submit(std::move(late)).ok());
  const Result result = last_result();
  EXPECT_EQ(result.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(error_reason(result.status()), "DEADLINE_EXCEEDED");
  EXPECT_EQ(engine.submitted(), 0);
}

TEST_F(PreprocessTest, a_bad_picture_is_named_by_its_place_in_the_request) {
  ASSERT_TRUE(submit(make_job(true)).ok());
  const Result result = last_result();
  EXPECT_EQ(error_reason(result.status()), "IMAGE_FORMAT");
  EXPECT_EQ(error_field(result.status()), "messages[0].parts[1].image");
}

TEST_F(PreprocessTest, the_refusal_of_a_picture_names_the_limit) {
  PreprocessJob tiny = make_job(true);
  tiny.request.image = image::testing::flat_png(1, 1);
  ASSERT_TRUE(submit(std::move(tiny)).ok());
  const Result result = last_result();
  EXPECT_EQ(error_field(result.status()), "messages[0].parts[1].image");
  EXPECT_EQ(error_limit(result.status()), "4..16384");
  EXPECT_EQ(error_got(result.status()), "1x1");
}

TEST_F(PreprocessTest, what_throws_ends_one_request_and_not_the_pool) {
  // Between its stages.
  const auto throws = [](const auto& what) {
    return [what, started = false]() mutable -> bool {
      if (std::exchange(started, true)) throw what;
      return false;
    };
  };
  PreprocessJob no_memory = make_job(true);
  no_memory.request.image = image::testing::flat_png(8, 8);
  PreprocessJob broken = no_memory;
  no_memory.cancelled = throws(std::bad_alloc());
  ASSERT_TRUE(submit(std::move(no_memory)).ok());
  Result result = last_result();
  EXPECT_EQ(result.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(error_reason(result.status()), "MEMORY");
  broken.cancelled = throws(std::runtime_error("broken"));
  ASSERT_TRUE(submit(std::move(broken)).ok());
  EXPECT_EQ(last_result().status().code(), absl::StatusCode::kInternal);
  ASSERT_TRUE(submit(make_job(false)).ok());
  EXPECT_TRUE(last_result().ok());
}

TEST_F(PreprocessTest, its_end_ends_what_is_queued) {
  make_pool(0);  // nothing is taken from the queue before
  ASSERT_TRUE(submit(make_job(true)).ok());
  ASSERT_TRUE(submit(make_job(false)).ok());
  preprocessor.reset();
  for (std::promise<Result>& result : results) {
    std::future<Result> end = result.get_future();
    ASSERT_EQ(end.wait_for(std::chrono::seconds(0)), std::future_status::ready);
    EXPECT_EQ(end.get().status().code(), absl::StatusCode::kCancelled);
  }
  EXPECT_EQ(engine.submitted(), 0);
}

}  // namespace
}  // namespace cogserve
