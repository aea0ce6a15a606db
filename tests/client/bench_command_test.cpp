#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "client/commands.hpp"
#include "tests/client/commands_fixture.hpp"

namespace cogserve::client {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;
using Json = nlohmann::json;

class BenchTest : public CommandsTest {
 protected:
  BenchTest() {
    v1::Model model;
    model.set_name("demo");
    model.set_image_size(28);
    model.set_image_tokens(6);
    model.mutable_limits()->set_max_model_len(512);
    server_.set_model(model);
    // One token a word, as far as this server's counts tell.
    server_.set_handler([](const v1::ChatRequest& request) {
      Reply reply;
      reply.deltas = {"a", "b", "c"};
      const std::string question = last_question(request);
      reply.usage.set_prompt_tokens(
          5 + static_cast<int>(std::count(question.begin(), question.end(), ' ')));
      reply.usage.set_completion_tokens(3);
      return reply;
    });
  }

  static std::vector<std::string> files_in(const std::string& folder) {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      names.push_back(entry.path().filename().string());
    }
    return names;
  }

  Json saved_result() {
    std::ifstream file(folder_.path() + "/result.json");
    return Json::parse(file);
  }
};

TEST_F(BenchTest, writes_the_result_with_vllms_keys) {
  const Outcome outcome =
      run(run_bench, {"serve", "--workload", "w1", "--max-concurrency", "2", "--num-prompts", "10",
                      "--save-result", "--result-dir", folder_.path(), "--result-filename",
                      "result.json", "--goodput", "ttft:60000", "tpot:60000"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("requests completed"));
  EXPECT_THAT(outcome.out, HasSubstr("time to first token"));
  const Json json = saved_result();
  EXPECT_EQ(json["completed"], 10);
  EXPECT_EQ(json["failed"], 0);
  EXPECT_EQ(json["total_output_tokens"], 30);
  EXPECT_EQ(json["model_id"], "demo");
  EXPECT_EQ(json["request_goodput"], json["request_throughput"]);
  EXPECT_GT(json["upload_bytes"], 0);
  for (const char* key : {"date", "duration", "num_prompts", "request_rate", "burstiness",
                          "max_concurrency", "total_input_tokens", "output_throughput",
                          "total_token_throughput", "images_per_second", "questions_per_second"}) {
    EXPECT_TRUE(json.contains(key)) << key;
  }
  for (const char* metric : {"ttft", "tpot", "itl", "e2el", "vision", "queue"}) {
    for (const char* figure : {"mean", "median", "std", "p50", "p90", "p99"}) {
      EXPECT_TRUE(json.contains(std::string(figure) + "_" + metric + "_ms")) << figure << metric;
    }
  }
  EXPECT_EQ(json["connections"], 1);
  EXPECT_TRUE(json["max_send_delay_ms"].is_null());
  // Two to measure the tokenizer, four to warm up, ten measured.
  EXPECT_EQ(server_.requests().size(), 16U);
}

TEST_F(BenchTest, an_open_loop_says_how_late_it_sent) {
  const Outcome outcome =
      run(run_bench, {"serve", "--num-prompts", "3", "--num-warmups", "0", "--save-result",
                      "--result-dir", folder_.path(), "--result-filename", "result.json"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("sent late by, at most (ms)"));
  EXPECT_GT(saved_result()["max_send_delay_ms"], 0);
}

TEST_F(BenchTest, makes_the_folder_of_the_result) {
  const std::string folder = folder_.path() + "/new/deep";
  const Outcome outcome =
      run(run_bench, {"serve", "--max-concurrency", "1", "--num-prompts", "1", "--save-result",
                      "--result-dir", folder, "--result-filename", "result.json"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(files_in(folder), std::vector<std::string>{"result.json"});
}

TEST_F(BenchTest, a_result_that_cannot_be_written_is_said_before_the_load) {
  const Outcome outcome = run(run_bench, {"serve", "--max-concurrency", "1", "--save-result",
                                          "--result-dir", picture_ + "/folder"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, StartsWith("error: FILE_WRITE --result-dir: cannot write "));
  EXPECT_TRUE(server_.requests().empty());
}

TEST_F(BenchTest, a_run_that_fails_keeps_an_earlier_result_and_leaves_nothing_else) {
  const std::string folder = folder_.path() + "/results";
  std::filesystem::create_directory(folder);
  folder_.write("results/result.json", "earlier");
  const Outcome outcome =
      run(run_bench, {"serve", "--workload", "w2", "--max-concurrency", "1", "--save-result",
                      "--result-dir", folder, "--result-filename", "result.json"});
  EXPECT_EQ(outcome.code, 2);  // the workload does not fit the model
  EXPECT_EQ(files_in(folder), std::vector<std::string>{"result.json"});
  std::string content;
  std::ifstream(folder + "/result.json") >> content;
  EXPECT_EQ(content, "earlier");
}

TEST_F(BenchTest, questions_have_the_length_asked_for_by_the_servers_own_count) {
  EXPECT_EQ(run(run_bench, {"serve", "--dataset-name", "random", "--random-input-len", "40",
                            "--random-output-len", "8", "--max-concurrency", "1", "--num-prompts",
                            "1", "--num-warmups", "0"})
                .code,
            0);
  const std::string question = last_question(server_.requests().back());
  EXPECT_EQ(std::count(question.begin(), question.end(), ' ') + 1, 40);
  EXPECT_EQ(server_.requests().back().stopping().max_tokens(), 8);
  EXPECT_TRUE(server_.requests().back().stopping().ignore_eos());
}

TEST_F(BenchTest, failed_requests_are_in_the_table_by_reason_and_exit_1) {
  server_.set_handler([this, calls = 0](const v1::ChatRequest&) mutable {
    Reply reply;
    reply.deltas = {"a"};
    if (++calls <= 2) return reply;
    return refusal(8, "QUEUE_FULL", "");
  });
  const Outcome outcome = run(
      run_bench, {"serve", "--max-concurrency", "1", "--num-prompts", "3", "--num-warmups", "0"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.out, HasSubstr("  RESOURCE_EXHAUSTED QUEUE_FULL"));
}

TEST_F(BenchTest, a_workload_that_cannot_fit_the_model_is_refused_with_its_arithmetic) {
  const Outcome outcome = run(run_bench, {"serve", "--workload", "w2", "--max-concurrency", "1"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("768 tokens does not fit the model's 512"));
}

TEST_F(BenchTest, wrong_flags_exit_2_and_name_the_flag) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{"serve"}, "--num-prompts"},
      {{"serve", "--max-concurrency", "-1"}, "--max-concurrency"},
      {{"serve", "--request-rate", "0"}, "--request-rate"},
      {{"serve", "--request-rate", "1", "--burstiness", "0"}, "--burstiness"},
      {{"serve", "--max-concurrency", "1", "--cancel-rate", "2"}, "--cancel-rate"},
      {{"serve", "--max-concurrency", "1", "--goodput", "fast:1"}, "--goodput"},
      {{"serve", "--max-concurrency", "1", "--metric-percentiles", "101"}, "--metric-percentiles"},
      {{"serve", "--max-concurrency", "1", "--percentile-metrics", "x"}, "--percentile-metrics"},
      {{"serve", "--max-concurrency", "1", "--dataset-name", "custom_image"}, "--dataset-path"},
      {{"serve", "--max-concurrency", "1", "--image-width", "20000"}, "--image-width"},
      {{"serve", "--max-concurrency", "1", "--model", "\xE9"}, "--model"},
      {{"latency"}, "serve"},
  };
  for (const auto& [arguments, flag] : cases) {
    const Outcome outcome = run(run_bench, arguments);
    EXPECT_EQ(outcome.code, 2) << flag;
    EXPECT_THAT(outcome.err, HasSubstr(flag));
  }
}

TEST_F(BenchTest, a_server_that_is_not_there_exits_by_its_code) {
  server_.stop();
  EXPECT_EQ(run(run_bench, {"serve", "--max-concurrency", "1"}).code, 78);
}

}  // namespace
}  // namespace cogserve::client
