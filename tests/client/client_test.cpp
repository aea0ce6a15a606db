#include "client/client.hpp"

#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <thread>

#include "client/conversation.hpp"
#include "client/utf8.hpp"
#include "tests/client/fake_server.hpp"

namespace cogserve::client {
namespace {

using std::chrono::milliseconds;

ChatRequest question(const std::string& text) {
  ChatRequest request;
  request.messages = Conversation().ask(text).messages();
  return request;
}

Reply refusal(int code, const std::string& reason, int retry_after_ms = -1) {
  Reply reply;
  reply.code = code;
  reply.message = "not now";
  reply.reason = reason;
  reply.retry_after_ms = retry_after_ms;
  return reply;
}

Reply text(const std::string& answer) {
  Reply reply;
  reply.deltas = {answer};
  return reply;
}

class ClientTest : public ::testing::Test {
 protected:
  Client connect(int retries = 3, milliseconds deadline = milliseconds(0)) {
    auto client =
        Client::connect({.target = server_.target(), .deadline = deadline, .retries = retries});
    return *std::move(client);
  }

  FakeServer server_;
};

TEST_F(ClientTest, chat_returns_text_usage_and_timings) {
  Reply reply = text("a red circle");
  reply.usage.set_prompt_tokens(60);
  reply.usage.set_image_tokens(38);
  reply.usage.set_completion_tokens(4);
  reply.timings.set_vision_ms(12.5);
  server_.set_replies({reply});
  const auto answer = connect().chat(question("what is it?"));
  ASSERT_TRUE(answer.ok());
  EXPECT_EQ(answer->text, "a red circle");
  EXPECT_EQ(answer->request_id, "fake-1");
  EXPECT_EQ(answer->finish_reason, FinishReason::kStop);
  EXPECT_EQ(answer->usage.prompt_tokens, 60);
  EXPECT_EQ(answer->usage.image_tokens, 38);
  EXPECT_EQ(answer->usage.completion_tokens, 4);
  EXPECT_EQ(answer->timings.vision_ms, 12.5);
}

TEST_F(ClientTest, sends_every_field_of_the_request) {
  ChatRequest request;
  request.model = "demo";
  request.messages =
      Conversation().ask("colour?", Image{"bytes"}).answer("red").ask("sure?").messages();
  request.prompt_template = Template::kVqa;
  request.sampling = {.temperature = 0.5F,
                      .top_p = 0.9F,
                      .top_k = 7,
                      .min_p = 0.1F,
                      .repetition_penalty = 1.1F,
                      .presence_penalty = 0.2F,
                      .frequency_penalty = 0.3F,
                      .seed = uint64_t{1} << 63};
  request.stopping = {
      .max_tokens = 5, .min_tokens = 2, .stop = {"\n"}, .stop_token_ids = {9}, .ignore_eos = true};
  request.logprobs = 0;
  request.return_token_ids = true;
  request.request_id = "mine";
  ASSERT_TRUE(connect().chat(request).ok());

  const v1::ChatRequest sent = server_.requests().at(0);
  EXPECT_EQ(sent.model(), "demo");
  ASSERT_EQ(sent.messages_size(), 3);
  EXPECT_EQ(sent.messages(0).parts(0).image(), "bytes");
  EXPECT_EQ(sent.messages(0).parts(1).text(), "colour?");
  EXPECT_EQ(sent.messages(1).role(), v1::ROLE_ASSISTANT);
  EXPECT_EQ(sent.messages(2).role(), v1::ROLE_USER);
  EXPECT_EQ(sent.template_(), v1::TEMPLATE_VQA);
  EXPECT_EQ(sent.sampling().temperature(), 0.5F);
  EXPECT_EQ(sent.sampling().top_p(), 0.9F);
  EXPECT_EQ(sent.sampling().top_k(), 7);
  EXPECT_EQ(sent.sampling().min_p(), 0.1F);
  EXPECT_EQ(sent.sampling().repetition_penalty(), 1.1F);
  EXPECT_EQ(sent.sampling().presence_penalty(), 0.2F);
  EXPECT_EQ(sent.sampling().frequency_penalty(), 0.3F);
  EXPECT_EQ(sent.sampling().seed(), uint64_t{1} << 63);
  EXPECT_EQ(sent.stopping().max_tokens(), 5);
  EXPECT_EQ(sent.stopping().min_tokens(), 2);
  EXPECT_EQ(sent.stopping().stop(0), "\n");
  EXPECT_EQ(sent.stopping().stop_token_ids(0), 9);
  EXPECT_TRUE(sent.stopping().ignore_eos());
  EXPECT_TRUE(sent.has_logprobs());
  EXPECT_TRUE(sent.return_token_ids());
  EXPECT_EQ(sent.request_id(), "mine");
}

TEST_F(ClientTest, leaves_out_what_the_caller_left_to_the_server) {
  ASSERT_TRUE(connect().chat(question("?")).ok());
  const v1::ChatRequest sent = server_.requests().at(0);
  EXPECT_FALSE(sent.sampling().has_temperature());
  EXPECT_FALSE(sent.sampling().has_seed());
  EXPECT_FALSE(sent.stopping().has_max_tokens());
  EXPECT_FALSE(sent.has_logprobs());
  EXPECT_EQ(sent.template_(), v1::TEMPLATE_UNSPECIFIED);
}

TEST_F(ClientTest, streams_the_pieces_in_order_and_returns_the_whole_answer) {
  std::vector<std::string> pieces;
  const auto answer = connect().stream_chat(
      question("why?"), [&](const Delta& delta) { pieces.push_back(delta.text); });
  ASSERT_TRUE(answer.ok());
  EXPECT_EQ(pieces, (std::vector<std::string>{"You ", "asked: ", "why?"}));
  EXPECT_EQ(answer->text, "You asked: why?");
  EXPECT_EQ(answer->token_ids, (std::vector<int32_t>{0, 1, 2}));
  EXPECT_EQ(answer->usage.completion_tokens, 3);
}

TEST_F(ClientTest, decodes_reason_field_delay_and_metadata_of_an_error) {
  Reply reply = refusal(3, "PARAM_RANGE", 1500);
  reply.field = "sampling.top_p";
  reply.metadata = {{"limit", "1"}, {"got", "2"}};
  server_.set_replies({reply});
  const auto answer = connect().chat(question("?"));
  ASSERT_FALSE(answer.ok());
  EXPECT_EQ(answer.error().code, Code::kInvalidArgument);
  EXPECT_EQ(answer.error().reason, "PARAM_RANGE");
  EXPECT_EQ(answer.error().field, "sampling.top_p");
  EXPECT_EQ(answer.error().message, "not now");
  EXPECT_EQ(answer.error().retry_after, milliseconds(1500));
  EXPECT_EQ(answer.error().metadata.at("got"), "2");
}

TEST_F(ClientTest, a_thing_that_is_not_found_names_its_field_too) {
  Reply reply = refusal(5, "MODEL_NOT_FOUND");
  reply.field = "model";
  server_.set_replies({reply});
  const auto answer = connect().chat(question("?"));
  ASSERT_FALSE(answer.ok());
  EXPECT_EQ(answer.error().code, Code::kNotFound);
  EXPECT_EQ(answer.error().field, "model");
}

TEST_F(ClientTest, tries_again_after_refusals_that_may_pass) {
  server_.set_replies({refusal(14, "DRAINING", 1), refusal(8, "QUEUE_FULL", 1), text("at last")});
  const auto answer = connect().stream_chat(question("?"), [](const Delta&) {});
  ASSERT_TRUE(answer.ok());
  EXPECT_EQ(answer->text, "at last");
  EXPECT_EQ(server_.requests().size(), 3U);
}

TEST_F(ClientTest, gives_up_when_the_retries_are_used_up) {
  server_.set_replies({refusal(14, "DRAINING", 1)});
  const auto answer = connect(2).chat(question("?"));
  ASSERT_FALSE(answer.ok());
  EXPECT_EQ(answer.error().reason, "DRAINING");
  EXPECT_EQ(server_.requests().size(), 3U);
}

TEST_F(ClientTest, does_not_repeat_a_bad_request) {
  server_.set_replies({refusal(3, "SYSTEM_ROLE"), text("never")});
  EXPECT_FALSE(connect().chat(question("?")).ok());
  EXPECT_EQ(server_.requests().size(), 1U);
}

TEST_F(ClientTest, does_not_repeat_a_refusal_for_size) {
  server_.set_replies({refusal(8, ""), text("never")});
  EXPECT_FALSE(connect().chat(question("?")).ok());
  EXPECT_EQ(server_.requests().size(), 1U);
}

TEST_F(ClientTest, does_not_repeat_after_the_first_token) {
  Reply broken = refusal(14, "ENGINE_RESTARTING", 1);
  broken.deltas = {"half an "};
  server_.set_replies({broken, text("never")});
  std::string shown;
  const auto answer =
      connect().stream_chat(question("?"), [&](const Delta& delta) { shown += delta.text; });
  ASSERT_FALSE(answer.ok());
  EXPECT_EQ(answer.error().reason, "ENGINE_RESTARTING");
  EXPECT_EQ(shown, "half an ");
  EXPECT_EQ(server_.requests().size(), 1U);
}

TEST_F(ClientTest, cancel_ends_a_running_stream) {
  Reply endless = text("and ");
  endless.hang = true;
  server_.set_replies({endless});
  Cancellation cancellation;
  const auto answer = connect().stream_chat(
      question("?"), [&](const Delta&) { cancellation.cancel(); }, &cancellation);
  ASSERT_FALSE(answer.ok());
  EXPECT_EQ(answer.error().code, Code::kCancelled);
}

TEST_F(ClientTest, cancel_ends_the_wait_before_a_retry) {
  Cancellation cancellation;
  server_.set_handler([&](const v1::ChatRequest&) {
    cancellation.cancel();
    return refusal(14, "LOADING", 3'600'000);
  });
  EXPECT_FALSE(connect().chat(question("?"), &cancellation).ok());
  EXPECT_EQ(server_.requests().size(), 1U);
}

TEST_F(ClientTest, does_not_wait_for_a_retry_beyond_the_deadline) {
  server_.set_replies({refusal(14, "LOADING", 3'600'000)});
  const auto answer = connect(3, std::chrono::seconds(60)).chat(question("?"));
  ASSERT_FALSE(answer.ok());
  EXPECT_EQ(answer.error().reason, "LOADING");
}

TEST_F(ClientTest, deadline_ends_a_call_that_hangs) {
  Reply endless;
  endless.hang = true;
  server_.set_replies({endless});
  Client client = connect(3, milliseconds(50));
  EXPECT_EQ(client.chat(question("?")).error().code, Code::kDeadlineExceeded);
  EXPECT_EQ(client.stream_chat(question("?"), [](const Delta&) {}).error().code,
            Code::kDeadlineExceeded);
}

TEST_F(ClientTest, a_stream_without_its_final_message_is_an_error) {
  Reply cut = text("half");
  cut.leave_out_final = true;
  server_.set_replies({cut});
  const auto answer = connect().stream_chat(question("?"), [](const Delta&) {});
  ASSERT_FALSE(answer.ok());
  EXPECT_EQ(answer.error().reason, "STREAM_INCOMPLETE");
}

TEST_F(ClientTest, a_server_that_is_gone_is_unavailable) {
  Client client = connect(0);
  server_.stop();
  EXPECT_EQ(client.chat(question("?")).error().code, Code::kUnavailable);
  EXPECT_EQ(client.get_model().error().code, Code::kUnavailable);
  EXPECT_EQ(client.health().error().code, Code::kUnavailable);
}

TEST_F(ClientTest, many_streams_run_side_by_side_on_callbacks) {
  constexpr size_t kCalls = 64;
  Client client = connect();
  std::mutex mutex;
  std::condition_variable all_done;
  std::vector<std::string> answers(kCalls);
  size_t done = 0;
  for (size_t i = 0; i < kCalls; ++i) {
    client.start_stream_chat(
        question(std::to_string(i)), [](const Delta&) {},
        [&, i](const Result<Answer>& answer) {
          const std::lock_guard lock(mutex);
          answers[i] = answer.ok() ? answer->text : answer.error().message;
          ++done;
          all_done.notify_one();
        });
  }
  std::unique_lock lock(mutex);
  all_done.wait(lock, [&] { return done == kCalls; });
  for (size_t i = 0; i < kCalls; ++i) {
    EXPECT_EQ(answers[i], "You asked: " + std::to_string(i));
  }
}

TEST_F(ClientTest, another_connection_has_the_same_options) {
  const Client client = connect(0);
  Client other = client.another();
  EXPECT_TRUE(other.chat(question("?")).ok());
  server_.set_replies({refusal(14, "DRAINING", 1)});
  EXPECT_FALSE(other.chat(question("?")).ok());
  EXPECT_EQ(server_.requests().size(), 2U);  // no retry
}

TEST_F(ClientTest, all_servers_behind_a_name_are_asked_in_turn) {
  FakeServer other;
  auto client = Client::connect({.target = "ipv4:" + server_.target() + "," + other.target()});
  // Until both connections are there.
  for (int i = 0; i < 1000 && (server_.requests().empty() || other.requests().empty()); ++i) {
    ASSERT_TRUE(client->chat(question("?")).ok());
  }
  EXPECT_FALSE(server_.requests().empty());
  EXPECT_FALSE(other.requests().empty());
}

TEST_F(ClientTest, text_that_is_not_utf8_is_not_sent) {
  Client client = connect();
  const std::string latin1 = "caf\xE9";
  EXPECT_EQ(client.chat(question(latin1)).error().reason, "TEXT_UTF8");
  EXPECT_EQ(client.chat(question(latin1)).error().field, "messages[0].parts[0].text");
  const auto ignore = [](const Delta&) {};
  EXPECT_EQ(client.stream_chat(question(latin1), ignore).error().reason, "TEXT_UTF8");
  std::string reason;
  client.start_stream_chat(question(latin1), ignore,
                           [&](const Result<Answer>& answer) { reason = answer.error().reason; });
  EXPECT_EQ(reason, "TEXT_UTF8");
  ChatRequest request = question("?");
  request.stopping.stop = {"a", latin1};
  EXPECT_EQ(client.chat(request).error().field, "stopping.stop[1]");
  request = question("?");
  request.model = latin1;
  EXPECT_EQ(client.chat(request).error().field, "model");
  EXPECT_EQ(client.health(latin1).error().field, "service");
  EXPECT_TRUE(server_.requests().empty());
}

TEST_F(ClientTest, get_model_reports_what_is_served) {
  v1::Model model;
  model.set_name("demo");
  model.set_image_size(112);
  model.mutable_limits()->set_max_model_len(512);
  model.mutable_default_sampling()->set_temperature(0.6F);
  server_.set_model(model);
  const auto info = connect().get_model();
  ASSERT_TRUE(info.ok());
  EXPECT_EQ(info->name, "demo");
  EXPECT_EQ(info->image_size, 112);
  EXPECT_EQ(info->limits.max_model_len, 512);
  EXPECT_EQ(info->default_sampling.temperature, 0.6F);
  EXPECT_FALSE(info->default_sampling.top_k.has_value());
}

TEST_F(ClientTest, health_follows_the_server_and_refuses_unknown_services) {
  Client client = connect();
  EXPECT_EQ(*client.health(), Health::kServing);
  server_.set_serving(false);
  EXPECT_EQ(*client.health(), Health::kNotServing);
  EXPECT_EQ(client.health("no.such.Service").error().code, Code::kNotFound);
}

TEST(ClientOptions, addresses_and_numbers_that_make_no_sense_are_refused) {
  EXPECT_EQ(Client::connect({.target = ""}).error().field, "target");
  EXPECT_EQ(Client::connect({.target = "http://localhost:8001"}).error().field, "target");
  EXPECT_EQ(Client::connect({.deadline = milliseconds(-1)}).error().field, "deadline");
  EXPECT_EQ(Client::connect({.retries = -1}).error().field, "retries");
}

TEST(ClientOptions, credentials_that_make_no_sense_are_refused) {
  const std::string pem = "-----BEGIN";
  EXPECT_EQ(Client::connect({.ca_certificates = pem}).error().field, "ca_certificates");
  EXPECT_EQ(Client::connect({.certificate = pem, .private_key = pem}).error().field, "certificate");
  EXPECT_EQ(Client::connect({.tls = true, .certificate = pem}).error().field, "certificate");
  EXPECT_EQ(Client::connect({.tls = true, .private_key = pem}).error().field, "certificate");
  for (const char* key : {"two words", "line\n", "kl\xc3\xa9"}) {
    EXPECT_EQ(Client::connect({.api_key = key}).error().field, "api_key") << key;
  }
}

TEST(Utf8, takes_every_whole_character_and_nothing_else) {
  for (const char* good : {"", "a", "caf\u00E9", "\u56FE\u4E2D", "\U0001F600", "\U0010FFFF"}) {
    EXPECT_TRUE(is_utf8(good)) << good;
  }
  // Latin-1, a lone continuation, cut, overlong, a surrogate, above U+10FFFF.
  for (const char* bad : {"caf\xE9", "\x80", "\xE5\x9B", "\xC0\xAF", "\xE0\x80\xAF", "\xED\xA0\x80",
                          "\xF4\x90\x80\x80", "\xF8\x88\x80\x80\x80"}) {
    EXPECT_FALSE(is_utf8(bad)) << bad;
  }
}

}  // namespace
}  // namespace cogserve::client
