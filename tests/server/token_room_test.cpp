// How many tokens an answer gets where context, cache and the server's default leave it room.
#include <gtest/gtest.h>

#include "tests/server/image_files.hpp"
#include "tests/server/test_server.hpp"

namespace cogserve {
namespace {

constexpr int kContext = 200;
constexpr int kCacheBlocks = 10;
// A prompt and an answer whose last token needs no place in the cache: it is never fed back.
constexpr int kMostInCache = kCacheBlocks * 16 + 1;

TestServerOptions short_context() {
  TestServerOptions options;
  options.engine.max_model_len = kContext;
  return options;
}

TestServerOptions small_cache() {
  TestServerOptions options;
  options.engine.kv_cache_bytes = kCacheBlocks * kFakeBlockBytes;
  return options;
}

int prompt_tokens(const TestServer& server) {
  return 1 + static_cast<int>(server.prompt_ids("x").size());
}

v1::ChatRequest ask_without_max_tokens() {
  v1::ChatRequest request = ask("x");
  request.mutable_stopping()->clear_max_tokens();
  return request;
}

v1::Usage usage_of(TestServer& server, const v1::ChatRequest& request) {
  const ChatResult result = chat(server.stub(), request);
  EXPECT_TRUE(result.status.ok()) << result.status.error_message();
  return result.response.usage();
}

TEST(TokenRoom, without_max_tokens_the_answer_takes_what_the_context_leaves) {
  TestServer server(short_context());
  const v1::Usage usage = usage_of(server, ask_without_max_tokens());
  EXPECT_EQ(usage.prompt_tokens() + usage.completion_tokens(), kContext);
}

TEST(TokenRoom, without_max_tokens_a_picture_leaves_its_tokens_room) {
  TestServer server(short_context());
  v1::ChatRequest request = ask_without_max_tokens();
  request.mutable_messages(0)->add_parts()->set_image(image::testing::flat_png(16, 16));
  const v1::Usage usage = usage_of(server, request);
  EXPECT_EQ(usage.image_tokens(), 18);
  EXPECT_EQ(usage.prompt_tokens(), prompt_tokens(server) + 18);
  EXPECT_EQ(usage.prompt_tokens() + usage.completion_tokens(), kContext);
}

TEST(TokenRoom, without_max_tokens_the_answer_takes_the_servers_default) {
  TestServer server;
  EXPECT_EQ(usage_of(server, ask_without_max_tokens()).completion_tokens(), 1024);
}

TEST(TokenRoom, without_max_tokens_the_answer_takes_what_a_small_cache_leaves) {
  TestServer server(small_cache());
  const v1::Usage usage = usage_of(server, ask_without_max_tokens());
  EXPECT_EQ(usage.prompt_tokens() + usage.completion_tokens(), kMostInCache);
}

TEST(TokenRoom, what_the_context_cannot_hold_is_refused_with_the_numbers) {
  TestServer server(short_context());
  const int most = kContext - prompt_tokens(server);
  EXPECT_EQ(usage_of(server, ask("x", most)).completion_tokens(), most);
  const CallError error = parse_error(chat(server.stub(), ask("x", most + 1)).status);
  EXPECT_EQ(error.reason, "CONTEXT_LENGTH");
  EXPECT_EQ(error.field, "stopping.max_tokens");
  EXPECT_EQ(error.limit, "200");
  EXPECT_EQ(error.got, "201");
}

TEST(TokenRoom, max_tokens_that_the_cache_never_holds_are_refused_by_their_whole_name) {
  TestServer server(small_cache());
  const int most = kMostInCache - prompt_tokens(server);
  EXPECT_EQ(usage_of(server, ask("x", most)).completion_tokens(), most);
  const CallError error = parse_error(chat(server.stub(), ask("x", most + 1)).status);
  EXPECT_EQ(error.code, grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(error.reason, "KV_NEVER_FITS");
  EXPECT_EQ(error.field, "stopping.max_tokens");
}

TEST(TokenRoom, min_tokens_may_fill_the_cache_and_no_more) {
  TestServer server(small_cache());
  const int most = kMostInCache - prompt_tokens(server);
  v1::ChatRequest request = ask_without_max_tokens();
  request.mutable_stopping()->set_min_tokens(most);
  EXPECT_EQ(usage_of(server, request).completion_tokens(), most);
  request.mutable_stopping()->set_min_tokens(most + 1);
  const CallError error = parse_error(chat(server.stub(), request).status);
  EXPECT_EQ(error.reason, "KV_NEVER_FITS");
  EXPECT_EQ(error.field, "stopping.min_tokens");
  EXPECT_EQ(error.limit, std::to_string(most));
  EXPECT_EQ(error.got, std::to_string(most + 1));
}

}  // namespace
}  // namespace cogserve
