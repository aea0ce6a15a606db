// What an answer carries, and that both methods carry the same.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/server/test_server.hpp"

namespace cogserve {
namespace {

using testing::Each;

void expect_logprobs(const text::Tokenizer& tokenizer, const std::vector<int32_t>& ids,
                     const std::vector<v1::TokenLogprob>& logprobs, int alternatives) {
  ASSERT_EQ(ids.size(), 3u);
  ASSERT_EQ(logprobs.size(), ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    EXPECT_EQ(logprobs[i].token_id(), ids[i]);
    EXPECT_EQ(logprobs[i].token(), tokenizer.token_bytes(ids[i]));
    EXPECT_FLOAT_EQ(logprobs[i].logprob(), -0.5f);
    ASSERT_EQ(logprobs[i].top_size(), alternatives);
    for (int j = 0; j < alternatives; ++j) {
      EXPECT_EQ(logprobs[i].top(j).token_id(), j);
      EXPECT_EQ(logprobs[i].top(j).token(), tokenizer.token_bytes(j));
      EXPECT_FLOAT_EQ(logprobs[i].top(j).logprob(), -0.5f - static_cast<float>(j));
    }
  }
}

TEST(Answer, logprobs_carry_token_bytes_and_as_many_alternatives_as_asked_for) {
  TestServer server;
  v1::ChatRequest request = ask("x", 3);
  for (const int alternatives : {2, 0}) {
    request.set_logprobs(alternatives);
    const StreamResult stream = stream_chat(server.stub(), request);
    expect_logprobs(server.tokenizer(), stream.token_ids, stream.logprobs, alternatives);
    const v1::ChatResponse whole = chat(server.stub(), request).response;
    expect_logprobs(server.tokenizer(), {whole.token_ids().begin(), whole.token_ids().end()},
                    {whole.logprobs().begin(), whole.logprobs().end()}, alternatives);
  }
  request.clear_logprobs();
  EXPECT_TRUE(stream_chat(server.stub(), request).logprobs.empty());
  EXPECT_EQ(chat(server.stub(), request).response.logprobs_size(), 0);
}

TEST(Answer, says_where_the_time_went) {
  TestServer server;
  for (const v1::Timings& timings : {stream_chat(server.stub(), ask("x")).final.timings(),
                                     chat(server.stub(), ask("x")).response.timings()}) {
    EXPECT_EQ(timings.queue_ms(), 1);
    EXPECT_EQ(timings.image_decode_ms(), 0);
    EXPECT_EQ(timings.vision_ms(), 2);
    EXPECT_EQ(timings.prefill_ms(), 3);
    EXPECT_EQ(timings.decode_ms(), 4);
  }
}

TEST(Answer, a_base_completion_keeps_its_leading_space) {
  TestServer server;
  server.engine().set_script(*server.tokenizer().encode(" red"));
  v1::ChatRequest request = ask("The apple is", 50);
  EXPECT_EQ(chat(server.stub(), request).response.text(), "red");
  request.set_template_(v1::TEMPLATE_BASE);
  EXPECT_EQ(chat(server.stub(), request).response.text(), " red");
}

TEST(Answer, a_stop_string_ends_the_call_although_the_engine_takes_no_further_step) {
  TestServer server;
  const std::vector<int32_t> script =
      *server.tokenizer().encode("one two STOP three four five six");
  server.engine().set_script(script);
  server.engine().pause();
  size_t needed = 0;
  while (server.tokenizer().decode({script.data(), needed}).find("STOP") == std::string::npos) {
    ++needed;
  }
  server.engine().allow_steps(static_cast<int>(needed));
  v1::ChatRequest request = ask("x", 400);
  request.mutable_stopping()->add_stop("STOP");
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(1));  // not for ever
  const StreamResult stream = read_stream(server.stub().StreamChat(&context, request).get());
  ASSERT_TRUE(stream.status.ok()) << stream.status.error_message();
  EXPECT_EQ(stream.text, "one two ");
  EXPECT_EQ(stream.final.matched_stop(), "STOP");
  EXPECT_EQ(stream.token_ids.size(), needed);
}

std::vector<v1::StreamChatResponse> messages_of(const TestServer& server,
                                                const v1::ChatRequest& request) {
  grpc::ClientContext context;
  const auto stub = v1::CogServe::NewStub(server.connect());
  const auto reader = stub->StreamChat(&context, request);
  std::vector<v1::StreamChatResponse> messages;
  for (v1::StreamChatResponse message; reader->Read(&message);) messages.push_back(message);
  EXPECT_TRUE(reader->Finish().ok());
  return messages;
}

TEST(Answer, only_the_first_message_of_a_stream_names_request_and_model) {
  TestServer server;
  v1::ChatRequest request = ask("x", 300);
  request.set_request_id("mine-1");
  std::vector<std::string> names;
  for (const v1::StreamChatResponse& message : messages_of(server, request)) {
    names.push_back(message.request_id() + "/" + message.model());
  }
  ASSERT_GE(names.size(), 2u);
  EXPECT_EQ(names.front(), "mine-1/fake");
  names.erase(names.begin());
  EXPECT_THAT(names, Each("/"));
}

TEST(Answer, one_that_begins_with_an_end_token_is_a_single_message_with_its_names) {
  TestServer server;
  server.engine().set_script({});
  v1::ChatRequest request = ask("x");
  request.set_return_token_ids(false);
  const std::vector<v1::StreamChatResponse> messages = messages_of(server, request);
  ASSERT_EQ(messages.size(), 1u);
  EXPECT_EQ(messages[0].model(), "fake");
  EXPECT_FALSE(messages[0].request_id().empty());
  EXPECT_EQ(messages[0].final().finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(messages[0].final().usage().completion_tokens(), 1);
}

}  // namespace
}  // namespace cogserve
