#include "server/call.hpp"

#include <gtest/gtest.h>

#include <future>
#include <thread>
#include <utility>

#include "engine/base/error.hpp"
#include "tests/server/test_server.hpp"

namespace cogserve {
namespace {

// Takes every write at once.
class FakeTransport final : public CallTransport {
 public:
  explicit FakeTransport(bool delivers) : delivers_(delivers) {}

  void carry(Call* call) { call_ = call; }
  // Once; how the call ended.
  absl::Status wait_for_end() { return end_.get_future().get(); }
  // Once it has ended.
  int writes() const { return writes_; }

  void write(v1::Delta* /*delta*/) override {
    ++writes_;
    call_->on_written(true);
  }
  void finish(const absl::Status& status, const v1::Final& /*final*/) override {
    end_.set_value(status);
  }
  bool delivers() const override { return delivers_; }
  void reset() override {}
  Call& call() override { return *call_; }

 private:
  const bool delivers_;
  Call* call_ = nullptr;
  int writes_ = 0;
  std::promise<absl::Status> end_;
};

// Keeps an executor's only thread until it is released.
class Holder final : public SerialTask {
 public:
  using SerialTask::SerialTask;
  void release() { gate_.set_value(); }

 protected:
  void step() override { gate_.get_future().wait(); }

 private:
  std::promise<void> gate_;
};

// A model with one thread of each kind.
class CallTest : public testing::Test {
 protected:
  static ServedModelOptions served() {
    ServedModelOptions options;
    options.names = {"fake"};
    options.preprocess_threads = 1;
    options.writer_threads = 1;
    return options;
  }

  FakeEngine& engine() { return static_cast<FakeEngine&>(model.engine()); }

  std::shared_ptr<Call> make_call(const v1::ChatRequest& request, FakeTransport* transport) {
    const CallDeadline never{Clock::time_point::max(), false};
    auto call = std::make_shared<Call>(
        &model, transport, check_request(request, model.rules()).value(), never, "caller", false);
    transport->carry(call.get());
    return call;
  }

  // Returns once all that was given to the preprocessor before has left it.
  void wait_for_preprocessor() {
    std::promise<void> done;
    PreprocessJob last;
    last.cancelled = [] { return true; };
    last.done = [&done](const absl::StatusOr<Submission>&) { done.set_value(); };
    ASSERT_TRUE(model.preprocessor().submit(std::move(last)).ok());
    done.get_future().wait();
  }

  // How a call ends whose engine fails after one token, and lets it come again.
  absl::Status fail_after_a_token(const v1::ChatRequest& request, FakeTransport* transport) {
    engine().pause();
    const std::shared_ptr<Call> call = make_call(request, transport);
    call->start();
    engine().allow_steps(1);
    while (engine().tokens_sampled() == 0) std::this_thread::yield();
    engine().fail_running(with_retry_delay(
        make_error(absl::StatusCode::kUnavailable, "ENGINE_RESTARTING", "", "it failed"),
        std::chrono::seconds(1)));
    return transport->wait_for_end();
  }

  ServedModel model{std::make_unique<FakeEngine>(), load_test_tokenizer(), served()};
};

TEST_F(CallTest, the_reason_of_an_abort_outlives_the_preprocessors_cancel) {
  FakeTransport transport(true);
  const auto holder = std::make_shared<Holder>(&model.executor());
  holder->wake();
  const std::shared_ptr<Call> call = make_call(ask("x"), &transport);
  call->abort(make_error(absl::StatusCode::kUnavailable, "DRAINING", "", "the server shuts down"));
  call->start();
  wait_for_preprocessor();
  holder->release();
  EXPECT_EQ(error_reason(transport.wait_for_end()), "DRAINING");
  EXPECT_EQ(engine().submitted(), 0);
}

TEST_F(CallTest, a_stream_that_fails_after_a_write_says_how_far_it_came_and_asks_for_no_retry) {
  FakeTransport transport(true);
  const absl::Status end = fail_after_a_token(ask("x", 100), &transport);
  EXPECT_EQ(transport.writes(), 1);
  EXPECT_EQ(error_reason(end), "ENGINE_RESTARTING");
  EXPECT_EQ(error_tokens(end), "1");
  EXPECT_FALSE(error_retry_delay(end).has_value());
}

TEST_F(CallTest, a_stream_that_fails_before_any_write_may_be_tried_again) {
  engine().set_script({*model.tokenizer().token_to_id("S")});
  v1::ChatRequest request = ask("x", 100);
  request.set_return_token_ids(false);
  request.mutable_stopping()->add_stop("STOP");
  FakeTransport transport(true);
  const absl::Status end = fail_after_a_token(request, &transport);
  EXPECT_EQ(transport.writes(), 0);
  EXPECT_EQ(error_tokens(end), "");
  EXPECT_EQ(error_retry_delay(end), std::chrono::seconds(1));
}

TEST_F(CallTest, a_unary_call_that_fails_may_be_tried_again_whatever_was_written) {
  FakeTransport transport(false);
  const absl::Status end = fail_after_a_token(ask("x", 100), &transport);
  EXPECT_EQ(transport.writes(), 1);
  EXPECT_EQ(error_tokens(end), "");
  EXPECT_EQ(error_retry_delay(end), std::chrono::seconds(1));
}

}  // namespace
}  // namespace cogserve
