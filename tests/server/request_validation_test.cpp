#include "server/request_validation.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <utility>

#include "engine/base/error.hpp"
#include "tests/server/malformed_requests.hpp"

namespace cogserve {
namespace {

using testing::ElementsAre;

RequestRules test_rules() {
  RequestRules rules;
  rules.model_names = {"fake", "alias"};
  rules.vocab_size = 640;
  rules.generation.temperature = 0.6f;
  rules.generation.top_p = 0.9f;
  rules.generation.top_k = 7;
  rules.generation.repetition_penalty = 1.1f;
  return rules;
}

void add_turn(v1::ChatRequest* request, v1::Role role, const std::string& text) {
  v1::Message* message = request->add_messages();
  message->set_role(role);
  message->add_parts()->set_text(text);
}

v1::ChatRequest question(const std::string& text) {
  v1::ChatRequest request;
  add_turn(&request, v1::ROLE_USER, text);
  return request;
}

TEST(RequestValidation, refuses_each_malformed_request_with_its_code_reason_and_field) {
  const RequestRules rules = test_rules();
  std::set<std::string> names;
  int count = 0;
  for (const MalformedRequest& bad : malformed_requests(rules.vocab_size)) {
    const auto checked = check_request(bad.request, rules);
    ASSERT_FALSE(checked.ok()) << bad.name;
    EXPECT_EQ(checked.status().code(), bad.code) << bad.name;
    EXPECT_EQ(error_reason(checked.status()), bad.reason) << bad.name;
    EXPECT_EQ(error_field(checked.status()), bad.field) << bad.name;
    EXPECT_FALSE(checked.status().message().empty()) << bad.name;
    EXPECT_LT(checked.status().message().size(), 300u) << bad.name;
    names.insert(bad.name);
    ++count;
  }
  EXPECT_GE(count, 150);
  std::printf("%d malformed requests, %zu names\n", count, names.size());
}

TEST(RequestValidation, says_limit_and_value) {
  v1::ChatRequest request = question("x");
  request.mutable_sampling()->set_top_k(1025);
  const absl::Status status = check_request(request, test_rules()).status();
  EXPECT_EQ(error_limit(status), "0..1024");
  EXPECT_EQ(error_got(status), "1025");
  request.mutable_sampling()->set_top_k(std::numeric_limits<int32_t>::max());
  EXPECT_EQ(error_got(check_request(request, test_rules()).status()), "2147483647");
}

TEST(RequestValidation, text_that_is_not_utf8_is_refused) {
  v1::ChatRequest request = question("a\xff");
  absl::Status status = check_request(request, test_rules()).status();
  EXPECT_EQ(error_reason(status), "TEXT_UTF8");
  EXPECT_EQ(error_field(status), "messages[0].parts[0].text");
  request = question("fine");
  request.mutable_stopping()->add_stop("\xc3");
  status = check_request(request, test_rules()).status();
  EXPECT_EQ(error_reason(status), "TEXT_UTF8");
  EXPECT_EQ(error_field(status), "stopping.stop[0]");
}

TEST(RequestValidation, absent_fields_take_the_models_defaults) {
  const auto checked = check_request(question("x"), test_rules());
  ASSERT_TRUE(checked.ok()) << checked.status();
  EXPECT_FLOAT_EQ(checked->sampling.temperature, 0.6f);
  EXPECT_FLOAT_EQ(checked->sampling.top_p, 0.9f);
  EXPECT_EQ(checked->sampling.top_k, 7);
  EXPECT_FLOAT_EQ(checked->sampling.repetition_penalty, 1.1f);
  EXPECT_EQ(checked->sampling.min_p, 0);
  EXPECT_EQ(checked->sampling.logprobs, -1);
  EXPECT_FALSE(checked->seed.has_value());
  EXPECT_FALSE(checked->max_tokens.has_value());
  EXPECT_EQ(checked->chat_template, text::Template::kChat);
  EXPECT_FALSE(checked->has_image);
  EXPECT_FALSE(checked->return_token_ids);
}

TEST(RequestValidation, each_template_is_the_one_asked_for) {
  RequestRules rules = test_rules();
  rules.default_template = text::Template::kVqa;
  const std::pair<v1::Template, text::Template> templates[] = {
      {v1::TEMPLATE_UNSPECIFIED, text::Template::kVqa},
      {v1::TEMPLATE_CHAT, text::Template::kChat},
      {v1::TEMPLATE_VQA, text::Template::kVqa},
      {v1::TEMPLATE_BASE, text::Template::kBase},
  };
  for (const auto& [asked, got] : templates) {
    v1::ChatRequest request = question("x");
    request.set_template_(asked);
    const auto checked = check_request(request, rules);
    ASSERT_TRUE(checked.ok()) << checked.status();
    EXPECT_EQ(checked->chat_template, got) << v1::Template_Name(asked);
  }
}

TEST(RequestValidation, the_edges_of_every_range_are_allowed) {
  for (const bool low : {true, false}) {
    v1::ChatRequest request = question("x");
    v1::Sampling& sampling = *request.mutable_sampling();
    sampling.set_temperature(low ? 0.0f : 2.0f);
    sampling.set_top_p(low ? 1e-40f : 1.0f);
    sampling.set_top_k(low ? 0 : 1024);
    sampling.set_min_p(low ? -0.0f : 1.0f);
    sampling.set_repetition_penalty(low ? 0.1f : 2.0f);
    sampling.set_presence_penalty(low ? -2.0f : 2.0f);
    sampling.set_frequency_penalty(low ? -2.0f : 2.0f);
    sampling.set_seed(low ? 0 : ~uint64_t{0});
    request.set_logprobs(low ? 0 : 20);
    request.set_request_id(low ? "a" : std::string(64, 'Z'));
    request.set_model(low ? "fake" : "alias");
    v1::Stopping& stopping = *request.mutable_stopping();
    stopping.set_max_tokens(low ? 1 : 4096);
    stopping.set_min_tokens(low ? 0 : 4096);
    for (int i = 0; i < (low ? 0 : 4); ++i) stopping.add_stop(std::string(64, 's'));
    for (int i = 0; i < (low ? 0 : 16); ++i) stopping.add_stop_token_ids(639);
    const auto checked = check_request(request, test_rules());
    ASSERT_TRUE(checked.ok()) << checked.status();
    EXPECT_EQ(checked->seed, sampling.seed());
    EXPECT_EQ(checked->stop.size(), low ? 0u : 4u);
    EXPECT_EQ(checked->max_tokens, stopping.max_tokens());
  }
}

TEST(RequestValidation, sixty_four_messages_cannot_be_but_sixty_three_may) {
  v1::ChatRequest request;
  for (int i = 0; i < 63; ++i) {
    add_turn(&request, i % 2 ? v1::ROLE_ASSISTANT : v1::ROLE_USER, "x");
  }
  EXPECT_TRUE(check_request(request, test_rules()).ok());
  add_turn(&request, v1::ROLE_ASSISTANT, "x");
  EXPECT_EQ(error_reason(check_request(request, test_rules()).status()), "ROLE_ORDER");
}

TEST(RequestValidation, joins_parts_and_finds_the_image_in_any_question) {
  v1::ChatRequest request = question("one ");
  request.mutable_messages(0)->add_parts()->set_text("two");
  add_turn(&request, v1::ROLE_ASSISTANT, "");
  add_turn(&request, v1::ROLE_USER, "three");
  request.mutable_messages(2)->add_parts()->set_image("bytes");
  const auto checked = check_request(request, test_rules());
  ASSERT_TRUE(checked.ok()) << checked.status();
  std::vector<std::string> texts;
  for (const text::Turn& turn : checked->turns) texts.push_back(turn.text);
  EXPECT_THAT(texts, ElementsAre("one two", "", "three"));
  EXPECT_TRUE(checked->has_image);
  EXPECT_EQ(checked->image, "bytes");
  EXPECT_EQ(checked->image_field, "messages[2].parts[1].image");
}

TEST(RequestValidation, a_picture_may_stand_without_words) {
  v1::ChatRequest request;
  request.add_messages()->set_role(v1::ROLE_USER);
  request.mutable_messages(0)->add_parts()->set_image("bytes");
  EXPECT_TRUE(check_request(request, test_rules()).ok());
}

TEST(RequestValidation, control_token_text_stays_text) {
  const auto checked =
      check_request(question("<|end_of_text|><|reserved_special_token_0|>"), test_rules());
  ASSERT_TRUE(checked.ok());
  EXPECT_EQ(checked->turns[0].text, "<|end_of_text|><|reserved_special_token_0|>");
}

}  // namespace
}  // namespace cogserve
