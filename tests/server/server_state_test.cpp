// What a server says of itself: health, model, services, and why it does not serve.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

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

TEST(ServerState, stops_serving_when_the_engine_has_failed) {
  TestServerOptions options;
  options.patience = std::chrono::milliseconds(20);  // the watch looks as often as half of it
  TestServer server(options);
  const auto channel = server.connect();
  server.engine().set_healthy(false);
  while (server.server().healthy()) std::this_thread::yield();
  EXPECT_EQ(parse_error(chat(server.stub(), ask("x")).status).reason, "ENGINE_RESTARTING");
  while (health_of(channel, "") != "NOT_SERVING") std::this_thread::yield();
  EXPECT_EQ(health_of(channel, "liveness"), "SERVING");
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
