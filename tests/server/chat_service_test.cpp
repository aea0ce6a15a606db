#include "server/chat_service.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <thread>

#include "engine/base/error.hpp"
#include "server/text/utf8.hpp"
#include "tests/server/malformed_requests.hpp"
#include "tests/server/test_server.hpp"

namespace cogserve {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

std::vector<int32_t> expected_tokens(const TestServer& server, const std::string& question,
                                     int count) {
  const std::vector<int32_t> prompt = server.prompt_ids(question);
  std::vector<int32_t> tokens;
  for (int i = 0; i < count; ++i) tokens.push_back(fake_token(prompt, false, i));
  return tokens;
}

// Text as an answer shows it: the space after "Answer:" is not its own.
std::string answer_text(const TestServer& server, const std::vector<int32_t>& ids) {
  const std::string text = server.tokenizer().decode(ids);
  return text.rfind(' ', 0) == 0 ? text.substr(1) : text;
}

std::vector<int32_t> ids_of(const v1::ChatResponse& response) {
  return {response.token_ids().begin(), response.token_ids().end()};
}

TEST(ChatService, answers_with_every_token_the_engine_gave) {
  TestServer server;
  const ChatResult result = chat(server.stub(), ask("What colour is it?", 20));
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  const std::vector<int32_t> expected = expected_tokens(server, "What colour is it?", 20);
  EXPECT_EQ(ids_of(result.response), expected);
  EXPECT_EQ(result.response.text(), answer_text(server, expected));
  EXPECT_EQ(result.response.model(), "fake");
  EXPECT_FALSE(result.response.request_id().empty());
  EXPECT_EQ(result.response.finish_reason(), v1::FINISH_REASON_LENGTH);
  const int prompt = 1 + static_cast<int>(server.prompt_ids("What colour is it?").size());
  EXPECT_EQ(result.response.usage().prompt_tokens(), prompt);
  EXPECT_EQ(result.response.usage().image_tokens(), 0);
  EXPECT_EQ(result.response.usage().completion_tokens(), 20);
  EXPECT_GT(result.response.timings().total_ms(), 0);
}

TEST(ChatService, streams_the_same_answer_in_pieces_and_one_final) {
  TestServer server;
  v1::ChatRequest request = ask("What colour is it?", 300);
  request.set_request_id("mine-1");
  const StreamResult stream = stream_chat(server.stub(), request);
  ASSERT_TRUE(stream.status.ok()) << stream.status.error_message();
  EXPECT_EQ(stream.token_ids, expected_tokens(server, "What colour is it?", 300));
  EXPECT_EQ(stream.text, chat(server.stub(), request).response.text());
  EXPECT_EQ(stream.finals, 1);
  EXPECT_EQ(stream.request_id, "mine-1");
  EXPECT_EQ(stream.final.usage().completion_tokens(), 300);
}

TEST(ChatService, every_delta_is_whole_characters) {
  TestServer server;
  const std::string text = "é 你好 🙂 ok 照片里有什么";
  server.engine().set_script(*server.tokenizer().encode(text));
  for (int round = 0; round < 20; ++round) {
    const StreamResult stream = stream_chat(server.stub(), ask("x", 400));
    ASSERT_TRUE(stream.status.ok());
    EXPECT_EQ(stream.text, text);
    for (const std::string& delta : stream.deltas) {
      EXPECT_EQ(text::find_invalid_utf8(delta), std::string::npos);
    }
    EXPECT_EQ(stream.final.finish_reason(), v1::FINISH_REASON_STOP);
  }
}

TEST(ChatService, a_stop_string_ends_the_answer_the_same_way_however_far_the_engine_is_ahead) {
  TestServer server;
  const std::vector<int32_t> script =
      *server.tokenizer().encode("one two STOP three four five six");
  server.engine().set_script(script);
  v1::ChatRequest request = ask("x", 400);
  request.mutable_stopping()->add_stop("never");
  request.mutable_stopping()->add_stop("STOP");
  const ChatResult first = chat(server.stub(), request);
  ASSERT_TRUE(first.status.ok());
  EXPECT_EQ(first.response.text(), "one two ");
  EXPECT_EQ(first.response.matched_stop(), "STOP");
  EXPECT_EQ(first.response.finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_LT(first.response.usage().completion_tokens(), static_cast<int>(script.size()));
  EXPECT_EQ(first.response.usage().completion_tokens(), first.response.token_ids_size());
  for (int round = 0; round < 20; ++round) {
    const StreamResult stream = stream_chat(server.stub(), request);
    ASSERT_TRUE(stream.status.ok());
    EXPECT_EQ(stream.text, "one two ");
    for (const std::string& delta : stream.deltas) EXPECT_THAT(delta, Not(HasSubstr("S")));
    EXPECT_EQ(stream.final.matched_stop(), "STOP");
    EXPECT_EQ(stream.final.usage().completion_tokens(), first.response.usage().completion_tokens());
    EXPECT_EQ(stream.token_ids, ids_of(first.response));
  }
  server.engine().wait_until_idle();
}

TEST(ChatService, end_and_stop_tokens_are_counted_but_not_shown) {
  TestServer server;
  const std::vector<int32_t> script = *server.tokenizer().encode("red");
  server.engine().set_script(script);
  v1::ChatRequest request = ask("x", 50);
  const ChatResult ended = chat(server.stub(), request);
  EXPECT_EQ(ended.response.text(), "red");
  EXPECT_EQ(ended.response.usage().completion_tokens(), static_cast<int>(script.size()) + 1);
  request.mutable_stopping()->add_stop_token_ids(script.back());
  const ChatResult stopped = chat(server.stub(), request);
  EXPECT_EQ(stopped.response.text(), answer_text(server, {script.begin(), script.end() - 1}));
}

TEST(ChatService, token_ids_come_only_when_asked_for) {
  TestServer server;
  v1::ChatRequest request = ask("x", 5);
  request.set_return_token_ids(false);
  EXPECT_EQ(chat(server.stub(), request).response.token_ids_size(), 0);
  EXPECT_EQ(stream_chat(server.stub(), request).token_ids.size(), 0u);
}

TEST(ChatService, gives_the_engine_what_the_request_says) {
  TestServer server;
  v1::ChatRequest request = ask("x", 5);
  v1::Sampling& sampling = *request.mutable_sampling();
  sampling.set_temperature(0.25f);
  sampling.set_top_k(11);
  sampling.set_seed(99);
  request.mutable_stopping()->set_ignore_eos(true);
  request.mutable_stopping()->set_min_tokens(2);
  request.mutable_stopping()->add_stop_token_ids(7);
  request.mutable_stopping()->add_stop_token_ids(9);
  ASSERT_TRUE(chat(server.stub(), request).status.ok());
  const Request seen = server.engine().last_request();
  EXPECT_EQ(seen.text_ids, server.prompt_ids("x"));
  EXPECT_FLOAT_EQ(seen.sampling.temperature, 0.25f);
  EXPECT_FLOAT_EQ(seen.sampling.top_p, 0.9f);  // the model's default
  EXPECT_EQ(seen.sampling.top_k, 11);
  EXPECT_EQ(seen.sampling.seed, 99u);
  EXPECT_EQ(seen.max_tokens, 5);
  EXPECT_EQ(seen.min_tokens, 2);
  EXPECT_TRUE(seen.ignore_eos);
  EXPECT_THAT(seen.stop_token_ids, ElementsAre(7, 9));
  EXPECT_LE(seen.first_token_by, Clock::now() + std::chrono::seconds(60));
}

TEST(ChatService, a_full_queue_refuses_a_picture_before_it_is_read_where_a_text_has_room) {
  TestServer server;
  server.engine().refuse_pictures(
      make_error(absl::StatusCode::kResourceExhausted, "QUEUE_FULL", "", "no room for pixels"));
  v1::ChatRequest request = ask("x");
  request.mutable_messages(0)->add_parts()->set_image("no picture at all");
  EXPECT_EQ(parse_error(chat(server.stub(), request).status).reason, "QUEUE_FULL");
  EXPECT_TRUE(chat(server.stub(), ask("x")).status.ok());
}

TEST(ChatService, a_first_token_that_is_late_names_the_servers_limit) {
  TestServerOptions options;
  options.chat.max_ttft = std::chrono::milliseconds(20);
  TestServer server(options);
  server.engine().pause();
  const CallError error = parse_error(chat(server.stub(), ask("x")).status);
  EXPECT_EQ(error.code, grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_EQ(error.reason, "FIRST_TOKEN_TIMEOUT");
  EXPECT_EQ(error.limit, "20 ms");
  server.engine().resume();
}

TEST(ChatService, a_refusal_carries_the_id_that_the_request_brought) {
  TestServer server;
  v1::ChatRequest request = ask("x", -1);
  request.set_request_id("mine-1");
  EXPECT_EQ(parse_error(chat(server.stub(), request).status).request_id, "mine-1");
  request.set_request_id("not\nmine");
  EXPECT_EQ(parse_error(chat(server.stub(), request).status).request_id, "");
}

TEST(ChatService, a_stop_string_does_not_end_the_answer_before_min_tokens) {
  TestServer server;
  std::vector<int32_t> script;
  for (const char* piece : {"a", ".", "b", ".", "c"}) {
    script.push_back(server.tokenizer().encode(piece).value().at(0));
  }
  server.engine().set_script(script);
  v1::ChatRequest request = ask("x", 8);
  request.mutable_stopping()->add_stop(".");
  EXPECT_EQ(chat(server.stub(), request).response.text(), "a");
  request.mutable_stopping()->set_min_tokens(2);
  EXPECT_EQ(chat(server.stub(), request).response.text(), "a.b");
}

TEST(ChatService, requests_without_a_seed_get_different_ones) {
  TestServer server;
  ASSERT_TRUE(chat(server.stub(), ask("x")).status.ok());
  const uint64_t first = server.engine().last_request().sampling.seed;
  ASSERT_TRUE(chat(server.stub(), ask("x")).status.ok());
  EXPECT_NE(server.engine().last_request().sampling.seed, first);
}

TEST(ChatService, two_calls_with_one_request_id_do_not_mix) {
  TestServer server;
  server.engine().pause();
  v1::ChatRequest first = ask("first", 100);
  v1::ChatRequest second = ask("second", 100);
  first.set_request_id("same");
  second.set_request_id("same");
  grpc::ClientContext first_context;
  grpc::ClientContext second_context;
  auto first_reader = server.stub().StreamChat(&first_context, first);
  auto second_reader = server.stub().StreamChat(&second_context, second);
  server.engine().wait_until_running(2);
  server.engine().resume();
  EXPECT_EQ(read_stream(second_reader.get()).token_ids, expected_tokens(server, "second", 100));
  EXPECT_EQ(read_stream(first_reader.get()).token_ids, expected_tokens(server, "first", 100));
}

TEST(ChatService, a_real_picture_reaches_the_engine_and_is_counted) {
  TestServer server;
  std::ifstream file(std::string(COGSERVE_SOURCE_DIR) + "/tests/data/images/444.jpg",
                     std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  ASSERT_FALSE(bytes.empty());
  v1::ChatRequest request = ask("What is it?", 6);
  request.mutable_messages(0)->add_parts()->set_image(bytes);
  const ChatResult result = chat(server.stub(), request);
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.response.usage().image_tokens(), server.model().description().image_tokens());
  const std::vector<int32_t> prompt = server.prompt_ids("What is it?");
  for (int i = 0; i < 6; ++i) {
    EXPECT_EQ(result.response.token_ids(i), fake_token(prompt, true, i));
  }
  EXPECT_GT(result.response.timings().image_decode_ms(), 0);
}

TEST(ChatService, every_malformed_request_gets_its_refusal_and_good_ones_go_on) {
  TestServerOptions options;
  options.engine.max_model_len = 1000;
  TestServer server(options);
  std::vector<MalformedRequest> bad = malformed_requests(server.model().rules().vocab_size);
  for (MalformedRequest& more : unpreparable_requests(1000)) bad.push_back(std::move(more));
  int sent = 0;
  for (const MalformedRequest& entry : bad) {
    const grpc::Status unary = chat(server.stub(), entry.request).status;
    const StreamResult stream = stream_chat(server.stub(), entry.request);
    for (const grpc::Status& status : {unary, stream.status}) {
      const CallError error = parse_error(status);
      EXPECT_EQ(static_cast<int>(error.code), static_cast<int>(entry.code)) << entry.name;
      EXPECT_EQ(error.reason, entry.reason) << entry.name;
      EXPECT_EQ(entry.code == absl::StatusCode::kNotFound ? error.resource : error.field,
                entry.field)
          << entry.name;
      EXPECT_EQ(error.domain, "cogvlm2") << entry.name;
      EXPECT_THAT(error.message, Not(HasSubstr("0x"))) << entry.name;
      EXPECT_THAT(error.message, Not(HasSubstr(".cpp"))) << entry.name;
    }
    EXPECT_TRUE(stream.deltas.empty()) << entry.name;
    if (++sent % 10 == 0) {
      const ChatResult good = chat(server.stub(), ask("still there?", 5));
      ASSERT_TRUE(good.status.ok()) << "after " << entry.name;
      EXPECT_EQ(ids_of(good.response), expected_tokens(server, "still there?", 5));
    }
  }
  EXPECT_GE(sent, 150);
  std::printf("%d malformed requests, each by both methods; a good one after each ten\n", sent);
}

TEST(ChatService, a_full_queue_refuses_before_anything_is_read) {
  TestServer server;
  server.engine().refuse_submissions(with_retry_delay(
      make_error(absl::StatusCode::kResourceExhausted, "QUEUE_FULL", "", "256 requests wait"),
      std::chrono::milliseconds(700)));
  v1::ChatRequest nonsense = ask("x");
  nonsense.mutable_messages(0)->add_parts()->set_image("no picture at all");
  for (const v1::ChatRequest& request : {ask("x"), nonsense, v1::ChatRequest()}) {
    const ChatResult full = chat(server.stub(), request);
    const CallError error = parse_error(full.status);
    EXPECT_EQ(error.code, grpc::StatusCode::RESOURCE_EXHAUSTED);
    EXPECT_EQ(error.reason, "QUEUE_FULL");
    EXPECT_EQ(error.quota, "QUEUE_FULL");
    EXPECT_EQ(error.retry_ms, 700);
    EXPECT_EQ(full.pushback, "700");
  }
}

TEST(ChatService, the_engines_own_refusals_and_faults_come_through) {
  TestServer server;
  server.engine().refuse_submissions(
      make_error(absl::StatusCode::kUnavailable, "ENGINE_RESTARTING", "", "it has failed"));
  const CallError error = parse_error(chat(server.stub(), ask("x")).status);
  EXPECT_EQ(error.code, grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(error.reason, "ENGINE_RESTARTING");
  EXPECT_FALSE(error.request_id.empty());
  server.engine().refuse_submissions(absl::OkStatus());

  server.engine().pause();
  grpc::ClientContext context;
  auto reader = server.stub().StreamChat(&context, ask("x", 100));
  server.engine().wait_until_running(1);
  server.engine().fail_running(make_error(absl::StatusCode::kInternal, "SEQUENCE_FAULT", "",
                                          "matrix.cpp:7 0x7fff /usr/lib/libblas.so"));
  const StreamResult stream = read_stream(reader.get());
  const CallError fault = parse_error(stream.status);
  EXPECT_EQ(fault.code, grpc::StatusCode::INTERNAL);
  EXPECT_EQ(fault.reason, "SEQUENCE_FAULT");
  EXPECT_THAT(fault.message, Not(HasSubstr("matrix")));
  EXPECT_EQ(stream.finals, 0);
  server.engine().resume();
  EXPECT_TRUE(chat(server.stub(), ask("x")).status.ok());
}

TEST(ChatService, a_full_preprocessing_queue_is_refused) {
  TestServerOptions options;
  options.engine.max_queue_size = 0;
  TestServer server(options);
  for (const grpc::Status& status :
       {chat(server.stub(), ask("x")).status, stream_chat(server.stub(), ask("x")).status}) {
    const CallError error = parse_error(status);
    EXPECT_EQ(error.code, grpc::StatusCode::RESOURCE_EXHAUSTED);
    EXPECT_EQ(error.reason, "QUEUE_FULL");
    EXPECT_GT(error.retry_ms, 0);
  }
}

TEST(ChatService, a_cancelled_call_leaves_the_engine) {
  TestServer server;
  server.engine().pause();
  for (int round = 0; round < 20; ++round) {
    grpc::ClientContext context;
    auto reader = server.stub().StreamChat(&context, ask("x", 1000));
    server.engine().wait_until_running(1);
    if (round % 2 == 0) {
      server.engine().allow_steps(3);
      v1::StreamChatResponse message;
      EXPECT_TRUE(reader->Read(&message));
    }
    context.TryCancel();
    EXPECT_EQ(read_stream(reader.get()).status.error_code(), grpc::StatusCode::CANCELLED);
    server.engine().wait_until_idle();
  }
}

TEST(ChatService, a_deadline_travels_to_the_engine) {
  TestServer server;
  server.engine().pause();
  for (const bool streaming : {false, true}) {
    // A deadline too short to reach the engine at all proves nothing: a longer one, then.
    const int before = server.engine().submitted();
    Clock::time_point latest;  // that the client's can be; the server's own is minutes away
    for (int ms = 50; server.engine().submitted() == before; ms *= 2) {
      grpc::ClientContext context;
      context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(ms));
      v1::ChatResponse response;
      const grpc::Status status =
          streaming ? read_stream(server.stub().StreamChat(&context, ask("x", 100)).get()).status
                    : server.stub().Chat(&context, ask("x", 100), &response);
      EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
      server.engine().wait_until_idle();
      latest = Clock::now() + std::chrono::milliseconds(2 * ms);
    }
    EXPECT_LT(server.engine().last_request().deadline, latest);
  }
}

TEST(ChatService, a_call_without_a_deadline_ends_at_the_servers_limit) {
  TestServerOptions options;
  options.chat.max_request_time = std::chrono::milliseconds(50);
  TestServer server(options);
  server.engine().pause();
  const CallError error = parse_error(chat(server.stub(), ask("x")).status);
  EXPECT_EQ(error.code, grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_EQ(error.reason, "REQUEST_TIMEOUT");
}

TEST(ChatService, a_reader_that_never_reads_loses_its_call_and_slows_nobody) {
  TestServerOptions options;
  options.watch.patience = std::chrono::milliseconds(2000);
  TestServer server(options);
  v1::ChatRequest big = ask("never read", 4096);
  big.set_logprobs(20);
  grpc::ClientContext context;
  auto stuck = v1::CogServe::NewStub(server.connect(true));
  auto reader = stuck->StreamChat(&context, big);
  server.engine().wait_until_submitted(1);
  for (int i = 0; i < 20; ++i) {  // meanwhile
    const StreamResult live = stream_chat(server.stub(), ask("live", 500));
    ASSERT_TRUE(live.status.ok());
    EXPECT_EQ(live.token_ids, expected_tokens(server, "live", 500));
  }
  server.engine().wait_until_idle();
  const StreamResult late = read_stream(reader.get());
  // The status waits behind what was not read; one that is not fetched in time is reset.
  EXPECT_TRUE(parse_error(late.status).reason == "SLOW_READER" ||
              late.status.error_code() == grpc::StatusCode::CANCELLED)
      << late.status.error_message();
  EXPECT_LT(late.token_ids.size(), 4096u);
  // What did arrive was right.
  const std::vector<int32_t> expected = expected_tokens(server, "never read", 4096);
  EXPECT_TRUE(std::equal(late.token_ids.begin(), late.token_ids.end(), expected.begin()));
  EXPECT_TRUE(server.server().wait_until_idle(std::chrono::minutes(1)));
}

}  // namespace
}  // namespace cogserve
