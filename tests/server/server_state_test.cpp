// What a server says of itself: health, model, services, and why it does not serve.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <set>
#include <thread>
#include <vector>

#include "engine/base/error.hpp"
#include "server/readiness.hpp"
#include "tests/server/test_server.hpp"

namespace cogserve {
namespace {

using testing::HasSubstr;

TEST(ServerState, describes_the_model_and_its_limits) {
  TestServer server;
  grpc::ClientContext context;
  v1::Model model;
  ASSERT_TRUE(server.stub().GetModel(&context, {}, &model).ok());
  EXPECT_EQ(model.name(), "fake");
  EXPECT_EQ(model.default_template(), v1::TEMPLATE_CHAT);
  EXPECT_EQ(model.image_tokens(), 18);
  EXPECT_EQ(model.vocab_size(), 640);
  EXPECT_EQ(model.kv_cache_tokens(), 65536);
  EXPECT_EQ(model.limits().max_model_len(), 8192);
  EXPECT_EQ(model.limits().max_image_bytes(), 10 << 20);
  EXPECT_FLOAT_EQ(model.default_sampling().temperature(), 0.6f);
  EXPECT_FALSE(model.server_version().empty());
}

TEST(ServerState, is_not_serving_while_loading_but_alive) {
  TestServerOptions options;
  options.serve = false;
  TestServer server(options);
  const auto channel = server.connect();
  EXPECT_EQ(health_of(channel, ""), "NOT_SERVING");
  EXPECT_EQ(health_of(channel, "cogserve.v1.CogServe"), "NOT_SERVING");
  EXPECT_EQ(health_of(channel, "liveness"), "SERVING");
  EXPECT_EQ(health_of(channel, "unknown.Service"), "NOT_FOUND");
  const ChatResult refused = chat(server.stub(), ask("x"));
  const CallError error = parse_error(refused.status);
  EXPECT_EQ(error.code, grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(error.reason, "LOADING");
  EXPECT_GT(error.retry_ms, 0);
  EXPECT_EQ(error.retryable, "true");
  EXPECT_EQ(refused.pushback, std::to_string(error.retry_ms));
  grpc::ClientContext context;
  v1::Model model;
  EXPECT_EQ(parse_error(server.stub().GetModel(&context, {}, &model)).reason, "LOADING");

  server.serve();
  EXPECT_EQ(health_of(channel, ""), "SERVING");
  EXPECT_EQ(health_of(channel, "cogserve.v1.CogServe"), "SERVING");
  EXPECT_TRUE(chat(server.stub(), ask("x")).status.ok());
}

TEST(ServerState, callers_that_came_too_early_do_not_come_back_together) {
  using std::chrono::milliseconds;
  Readiness readiness;
  for (const milliseconds about : {milliseconds(2000), milliseconds(500)}) {  // loading, draining
    std::set<milliseconds> delays;
    for (int i = 0; i < 20; ++i) delays.insert(error_retry_delay(readiness.admit()).value());
    EXPECT_GT(delays.size(), 10u);
    EXPECT_GE(*delays.begin(), about * 7 / 8 - milliseconds(1));
    EXPECT_LE(*delays.rbegin(), about * 9 / 8);
    readiness.advance(Readiness::State::kDraining);
  }
}

TEST(ServerState, stops_serving_when_the_engine_has_failed) {
  TestServerOptions options;
  options.watch.patience = std::chrono::milliseconds(20);  // the watch looks as often as half of it
  TestServer server(options);
  const auto channel = server.connect();
  server.engine().set_healthy(false);
  EXPECT_FALSE(server.server().healthy());
  while (parse_error(chat(server.stub(), ask("x")).status).reason != "ENGINE_RESTARTING") {
  }
  while (health_of(channel, "") != "NOT_SERVING") std::this_thread::yield();
  EXPECT_EQ(health_of(channel, "liveness"), "SERVING");
}

TEST(ServerState, does_not_serve_while_a_step_hangs_and_serves_again_after) {
  TestServerOptions options;
  options.watch.stall_timeout = std::chrono::milliseconds(30);
  TestServer server(options);
  const auto channel = server.connect();
  server.engine().set_silence(std::chrono::milliseconds(11));
  while (health_of(channel, "") != "NOT_SERVING") std::this_thread::yield();
  EXPECT_EQ(health_of(channel, "liveness"), "SERVING");
  const CallError error = parse_error(chat(server.stub(), ask("x")).status);
  EXPECT_EQ(error.code, grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(error.reason, "ENGINE_STALLED");
  EXPECT_GT(error.retry_ms, 0);
  EXPECT_FALSE(server.server().stuck());

  server.engine().set_silence(std::chrono::milliseconds(0));
  while (health_of(channel, "") != "SERVING") std::this_thread::yield();
  EXPECT_TRUE(chat(server.stub(), ask("x")).status.ok());
}

TEST(ServerState, is_stuck_when_a_step_hangs_too_long_and_tells_every_caller) {
  TestServerOptions options;
  options.watch.stall_timeout = std::chrono::milliseconds(30);
  TestServer server(options);
  server.engine().pause();
  std::vector<std::thread> callers;
  std::atomic<int> told{0};
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back([&] {
      const StreamResult stream = stream_chat(server.stub(), ask("x", 100));
      told += parse_error(stream.status).reason == "ENGINE_STALLED";
    });
  }
  server.engine().wait_until_running(4);
  server.engine().set_silence(std::chrono::milliseconds(31));
  while (!server.server().stuck()) std::this_thread::yield();
  server.server().abort_calls(
      make_error(absl::StatusCode::kUnavailable, "ENGINE_STALLED", "", "the engine has hung"));
  EXPECT_TRUE(server.server().wait_until_idle(std::chrono::minutes(1)));
  server.server().shutdown(std::chrono::minutes(1));
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(told, 4);
}

TEST(ServerState, a_drain_stays_a_drain_when_a_step_hangs) {
  TestServerOptions options;
  options.watch.stall_timeout = std::chrono::milliseconds(30);
  TestServer server(options);
  const auto channel = server.connect();
  server.engine().set_silence(std::chrono::milliseconds(11));
  while (health_of(channel, "") != "NOT_SERVING") std::this_thread::yield();
  server.server().begin_drain();
  server.engine().set_silence(std::chrono::milliseconds(0));
  // The watch looks every 5 ms: long before this has asked a hundred times.
  for (int i = 0; i < 100; ++i) ASSERT_EQ(health_of(channel, ""), "NOT_SERVING");
  EXPECT_EQ(parse_error(chat(server.stub(), ask("x")).status).reason, "DRAINING");
  EXPECT_FALSE(server.server().stuck());
  server.engine().set_silence(std::chrono::milliseconds(31));
  while (!server.server().stuck()) std::this_thread::yield();  // a drain would wait for ever
}

TEST(ServerState, an_engine_that_fails_in_a_drain_is_not_taken_for_a_good_end) {
  TestServer server;
  server.server().begin_drain();
  server.engine().set_healthy(false);
  EXPECT_FALSE(server.server().healthy()) << "whenever the watch looks next";
}

TEST(ServerState, lists_its_services_only_where_reflection_is_on) {
  for (const bool on : {true, false}) {
    TestServerOptions options;
    options.network.reflection = on;
    TestServer server(options);
    std::string response;
    // ServerReflectionRequest { string list_services = 7; }
    const grpc::Status status =
        exchange(server.connect(), "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                 std::string("\x3a\x01*", 3), &response);
    if (on) {
      EXPECT_TRUE(status.ok()) << status.error_message();
      EXPECT_THAT(response, HasSubstr("cogserve.v1.CogServe"));
    } else {
      EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
    }
  }
}

}  // namespace
}  // namespace cogserve
