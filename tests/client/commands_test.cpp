#include "client/commands.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>

#include "tests/client/commands_fixture.hpp"

namespace cogserve::client {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;
using Json = nlohmann::json;

using AskTest = CommandsTest;
using ChatTest = CommandsTest;
using HealthTest = CommandsTest;

// What each verb needs beside the flags of the connection.
class ConnectTest : public CommandsTest {
 protected:
  ConnectTest() {
    folder_.write("questions.json", R"([{"file": "picture.jpg", "turns": []}])");
    verbs_ = {{run_ask, {"--question", "?"}},
              {run_chat, {}},
              {run_health, {}},
              {run_demo, {folder_.path()}},
              {run_bench, {"serve", "--max-concurrency", "1"}}};
  }

  void expect_exit(int code, const std::vector<std::string>& flags, const std::string& error) {
    for (const auto& [verb, own] : verbs_) {
      std::vector<std::string> arguments = own;
      arguments.insert(arguments.end(), flags.begin(), flags.end());
      const Outcome outcome = run_as_given(verb, arguments);
      EXPECT_EQ(outcome.code, code) << outcome.err;
      EXPECT_THAT(outcome.err, StartsWith("error: " + error));
    }
  }

  std::vector<std::pair<int (*)(const std::vector<std::string>&), std::vector<std::string>>> verbs_;
};

TEST_F(ConnectTest, an_address_that_makes_no_sense_is_wrong_usage) {
  expect_exit(2, {"--server", "http://localhost:8001"}, "CLIENT_OPTION target: ");
}

TEST_F(ConnectTest, credentials_that_cannot_be_read_are_a_local_failure) {
  for (const std::string flag : {"--cacert", "--cert", "--key"}) {
    expect_exit(1, {"--tls", flag, "/no/such/file"}, "FILE_READ " + flag + ": ");
  }
}

TEST_F(ConnectTest, credentials_without_tls_are_wrong_usage) {
  for (const std::string flag : {"--cacert", "--cert", "--key"}) {
    expect_exit(2, {"--server", server_.target(), flag, picture_}, "USAGE " + flag + ": ");
  }
  EXPECT_TRUE(server_.requests().empty());
}

TEST_F(AskTest, prints_the_answer_and_nothing_else) {
  const Outcome outcome = run(run_ask, {"--image", picture_, "--question", "what?"});
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.out, "You asked: what?\n");
  EXPECT_EQ(outcome.err, "");
  const auto sent = server_.requests().at(0);
  EXPECT_EQ(sent.messages(0).parts(0).image(), "JPEG bytes");
}

TEST_F(AskTest, reads_the_picture_from_stdin) {
  EXPECT_EQ(run(run_ask, {"--image", "-", "--question", "what?"}, "piped").code, 0);
  EXPECT_EQ(server_.requests().at(0).messages(0).parts(0).image(), "piped");
}

TEST_F(AskTest, shows_many_answers_in_the_order_of_the_questions) {
  const Outcome outcome = run(run_ask, {"--image", picture_, "--question", "one?", "--question",
                                        "two?", "three?", "--no-stream"});
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.out,
            "> one?\nYou asked: one?\n> two?\nYou asked: two?\n> three?\nYou asked: three?\n");
}

TEST_F(AskTest, sends_the_turns_of_a_conversation_one_after_the_other) {
  const Outcome outcome = run(
      run_ask, {"--image", picture_, "--question", "one?", "--question", "two?", "--conversation"});
  EXPECT_EQ(outcome.code, 0);
  const auto sent = server_.requests();
  ASSERT_EQ(sent.size(), 2U);
  ASSERT_EQ(sent[1].messages_size(), 3);
  EXPECT_EQ(sent[1].messages(0).parts(0).image(), "JPEG bytes");
  EXPECT_EQ(sent[1].messages(1).parts(0).text(), "You asked: one?");
  EXPECT_EQ(sent[1].messages(2).parts(0).text(), "two?");
  EXPECT_EQ(sent[1].messages(2).parts_size(), 1);
}

TEST_F(AskTest, passes_the_flags_on_to_the_server) {
  EXPECT_EQ(run(run_ask,
                {"--question", "?", "--max-tokens", "7",  "--temperature", "0.5", "--top-p", "0.9",
                 "--top-k",    "3", "--seed",       "42", "--stop",        "a",   "--stop",  "b",
                 "--logprobs", "2", "--template",   "vqa"})
                .code,
            0);
  const auto sent = server_.requests().at(0);
  EXPECT_EQ(sent.stopping().max_tokens(), 7);
  EXPECT_EQ(sent.stopping().stop_size(), 2);
  EXPECT_EQ(sent.sampling().temperature(), 0.5F);
  EXPECT_EQ(sent.sampling().top_p(), 0.9F);
  EXPECT_EQ(sent.sampling().top_k(), 3);
  EXPECT_EQ(sent.sampling().seed(), 42U);
  EXPECT_EQ(sent.logprobs(), 2);
  EXPECT_EQ(sent.template_(), v1::TEMPLATE_VQA);
}

TEST_F(AskTest, leaves_the_servers_own_environment_alone) {
  ASSERT_EQ(setenv("COGSERVE_MODEL", "/models/demo", 1), 0);
  ASSERT_EQ(setenv("COGSERVE_MAX_TOKENS", "9", 1), 0);
  EXPECT_EQ(run(run_ask, {"--question", "?"}).code, 0);
  unsetenv("COGSERVE_MODEL");
  unsetenv("COGSERVE_MAX_TOKENS");
  EXPECT_EQ(server_.requests().at(0).model(), "");
  EXPECT_EQ(server_.requests().at(0).stopping().max_tokens(), 9);
}

TEST_F(AskTest, json_is_one_document_with_the_servers_counts) {
  const Outcome outcome =
      run(run_ask, {"--question", "a?", "--question", "b?", "--output", "json"});
  EXPECT_EQ(outcome.code, 0);
  const Json json = Json::parse(outcome.out);
  ASSERT_EQ(json["answers"].size(), 2U);
  EXPECT_EQ(json["answers"][1]["question"], "b?");
  EXPECT_EQ(json["answers"][1]["text"], "You asked: b?");
  EXPECT_EQ(json["answers"][1]["finish_reason"], "stop");
  EXPECT_EQ(json["answers"][1]["usage"]["completion_tokens"], 3);
  EXPECT_TRUE(json["answers"][1]["timings"].contains("vision_ms"));
}

TEST_F(AskTest, jsonl_is_one_line_for_each_question_failed_ones_too) {
  server_.set_handler([this](const v1::ChatRequest& request) {
    if (last_question(request) == "bad?") return refusal(3, "PARAM_RANGE", "sampling.temperature");
    Reply reply;
    reply.deltas = {"fine"};
    return reply;
  });
  const Outcome outcome = run(
      run_ask, {"--question", "good?", "--question", "bad?", "--output", "jsonl", "--no-stream"});
  EXPECT_EQ(outcome.code, 64 + 3);
  std::istringstream lines(outcome.out);
  std::string first;
  std::string second;
  std::getline(lines, first);
  std::getline(lines, second);
  EXPECT_EQ(Json::parse(first)["question"], "good?");
  EXPECT_EQ(Json::parse(second)["error"]["reason"], "PARAM_RANGE");
  EXPECT_EQ(Json::parse(second)["error"]["field"], "sampling.temperature");
}

TEST_F(AskTest, a_refusal_names_reason_field_and_message_and_exits_by_its_code) {
  server_.set_replies({refusal(3, "PARAM_RANGE", "sampling.temperature")});
  const Outcome outcome = run(run_ask, {"--question", "?", "--temperature", "3"});
  EXPECT_EQ(outcome.code, 67);
  EXPECT_THAT(outcome.err,
              StartsWith("error: PARAM_RANGE sampling.temperature: wants 0 to 2, got 3\n"));
}

TEST_F(AskTest, a_server_that_is_not_there_is_78_with_a_hint) {
  server_.stop();
  const Outcome outcome = run(run_ask, {"--question", "?"});
  EXPECT_EQ(outcome.code, 78);
  EXPECT_THAT(outcome.err, StartsWith("error: UNAVAILABLE: "));
  EXPECT_THAT(outcome.err, HasSubstr("hint: is the server running?"));
}

TEST_F(AskTest, a_deadline_ends_a_hanging_server) {
  Reply hang;
  hang.hang = true;
  server_.set_replies({hang});
  EXPECT_EQ(run(run_ask, {"--question", "?", "--deadline", "50ms"}).code, 68);
}

TEST_F(AskTest, verbose_shows_stage_times_speed_and_the_request_id) {
  Reply reply;
  reply.deltas = {"yes"};
  reply.usage.set_completion_tokens(11);
  reply.timings.set_vision_ms(12.5);
  reply.timings.set_decode_ms(100);
  server_.set_replies({reply});
  const Outcome outcome = run(run_ask, {"--question", "?", "--verbose"});
  EXPECT_EQ(outcome.code, 0);
  EXPECT_THAT(outcome.err, StartsWith("request fake-1: "));
  EXPECT_THAT(outcome.err, HasSubstr("first token after "));
  EXPECT_THAT(outcome.err, HasSubstr("100.0 tokens/s"));
  EXPECT_THAT(outcome.err, HasSubstr("vision 12.5"));
}

TEST_F(AskTest, mistakes_on_this_side_never_reach_the_server) {
  EXPECT_EQ(run(run_ask, {}).code, 2);
  EXPECT_EQ(run(run_ask, {"--question", "?", "--top-k", "many"}).code, 2);
  EXPECT_EQ(run(run_ask, {"--question", "?", "--concurrency", "0"}).code, 2);
  EXPECT_EQ(run(run_ask, {"--question", "?", "--no-such-flag"}).code, 2);
  EXPECT_EQ(run(run_ask, {"--question", "?", "--image", "/no/such/file"}).code, 1);
  EXPECT_EQ(run(run_ask, {"--question", "?", "--image", folder_.path()}).code, 1);
  EXPECT_TRUE(server_.requests().empty());
}

TEST_F(AskTest, text_in_another_encoding_is_named_and_not_sent) {
  const std::string latin1 = "caf\xE9?";
  Outcome outcome = run(run_ask, {"--question", "good?", "--question", latin1});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, StartsWith("error: USAGE --question: the question is not UTF-8"));
  outcome = run(run_ask, {"--question", "?", "--stop", latin1});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("--stop: is not UTF-8"));
  outcome = run(run_ask, {"--question", "?", "--model", latin1});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("--model: is not UTF-8"));
  EXPECT_TRUE(server_.requests().empty());
}

TEST_F(AskTest, help_lists_flags_and_exit_codes) {
  const Outcome outcome = run(run_ask, {"--help"});
  EXPECT_EQ(outcome.code, 0);
  EXPECT_THAT(outcome.out, HasSubstr("--question"));
  EXPECT_THAT(outcome.out, HasSubstr("COGSERVE_SERVER"));
  EXPECT_THAT(outcome.out, HasSubstr("Exit codes:"));
}

TEST_F(ChatTest, keeps_the_conversation_over_lines_of_a_script) {
  const Outcome outcome = run(run_chat, {"--image", picture_}, "one?\ntwo?\n/quit\nnever\n");
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.out, "You asked: one?\nYou asked: two?\n");
  const auto sent = server_.requests();
  ASSERT_EQ(sent.size(), 2U);
  ASSERT_EQ(sent[1].messages_size(), 3);
  EXPECT_EQ(sent[1].messages(0).parts(0).image(), "JPEG bytes");
}

TEST_F(ChatTest, reset_forgets_and_image_shows_a_new_picture) {
  const Outcome outcome = run(run_chat, {}, "hello\n/reset\n/image " + picture_ + "\nwhat?\n");
  EXPECT_EQ(outcome.code, 0);
  const auto sent = server_.requests();
  ASSERT_EQ(sent.size(), 2U);
  EXPECT_EQ(sent[0].messages(0).parts_size(), 1);
  ASSERT_EQ(sent[1].messages_size(), 1);
  EXPECT_EQ(sent[1].messages(0).parts(0).image(), "JPEG bytes");
}

TEST_F(ChatTest, refuses_a_second_picture_before_the_server_does) {
  const Outcome outcome = run(run_chat, {"--image", picture_}, "what?\n/image " + picture_ + "\n");
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("error: IMAGE_COUNT"));
}

TEST_F(ChatTest, a_failed_question_leaves_the_conversation_as_it_was) {
  Reply answer;
  answer.deltas = {"fine"};
  server_.set_replies({refusal(14, "DRAINING", ""), answer});
  const Outcome outcome = run(run_chat, {"--image", picture_}, "first?\nsecond?\n");
  EXPECT_EQ(outcome.code, 78);
  EXPECT_THAT(outcome.err, HasSubstr("error: DRAINING"));
  const auto sent = server_.requests();
  ASSERT_EQ(sent.size(), 2U);
  ASSERT_EQ(sent[1].messages_size(), 1);
  EXPECT_EQ(sent[1].messages(0).parts(0).image(), "JPEG bytes");
  EXPECT_EQ(sent[1].messages(0).parts(1).text(), "second?");
}

TEST_F(ChatTest, a_question_in_another_encoding_is_not_sent_and_the_conversation_goes_on) {
  const Outcome outcome = run(run_chat, {}, "caf\xE9?\ncoffee?\n");
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("the question is not UTF-8"));
  ASSERT_EQ(server_.requests().size(), 1U);
  EXPECT_EQ(server_.requests()[0].messages_size(), 1);
}

TEST_F(ChatTest, unknown_commands_are_not_questions) {
  const Outcome outcome = run(run_chat, {}, "/exit\n");
  EXPECT_EQ(outcome.code, 2);
  EXPECT_TRUE(server_.requests().empty());
}

TEST_F(HealthTest, exits_0_when_serving_1_when_not_69_when_unknown_78_when_gone) {
  const auto health = [this](std::vector<std::string> arguments) {
    arguments.push_back("--server=" + server_.target());
    const CapturedStreams streams;
    const int code = run_health(arguments);
    return Outcome{code, streams.out(), streams.err()};
  };
  EXPECT_EQ(health({}).code, 0);
  EXPECT_EQ(health({}).out, "SERVING\n");
  server_.set_serving(false);
  EXPECT_EQ(health({}).code, 1);
  EXPECT_EQ(health({}).out, "NOT_SERVING\n");
  EXPECT_EQ(health({"--service", "no.such.Service"}).code, 69);
  server_.stop();
  EXPECT_EQ(health({}).code, 78);
}

}  // namespace
}  // namespace cogserve::client
