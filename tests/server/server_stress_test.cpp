// Real gRPC on loopback, many clients that cancel, run out of time, read late or read all: every
// token that arrives is the right one at its place, and nothing is left behind.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cinttypes>
#include <cstdio>
#include <random>
#include <thread>

#include "tests/server/test_server.hpp"

namespace cogserve {
namespace {

constexpr uint64_t kWantedTokens = 220000;
constexpr int kClients = 6;

struct Counts {
  std::atomic<uint64_t> tokens{0};
  std::atomic<uint64_t> wrong{0};
  std::atomic<uint64_t> complete{0};
  std::atomic<uint64_t> cancelled{0};
  std::atomic<uint64_t> expired{0};
  std::atomic<uint64_t> read_late{0};
  std::atomic<uint64_t> unary{0};
  std::atomic<uint64_t> unexpected{0};
};

// One client thread with a connection of its own.
class Client {
 public:
  Client(const TestServer& server, int number, Counts* counts)
      : server_(server),
        stub_(v1::CogServe::NewStub(server.connect())),
        random_(static_cast<uint32_t>(number)),
        counts_(*counts) {}

  void run() {
    while (counts_.tokens < kWantedTokens) {
      switch (pick(0, 9)) {
        case 0:
          call_and_cancel();
          break;
        case 1:
          call_with_deadline();
          break;
        case 2:
          read_one_stream_after_another();
          break;
        case 3:
        case 4:
          call_unary();
          break;
        default:
          call_streaming();
          break;
      }
    }
  }

 private:
  int pick(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }

  v1::ChatRequest make_request(int max_tokens) {
    // Few request ids for many calls: they must not tell calls apart.
    v1::ChatRequest request = ask("question " + std::to_string(pick(0, 1 << 30)), max_tokens);
    request.set_request_id("r" + std::to_string(pick(0, 3)));
    return request;
  }

  // Counts what is right, and what is not.
  void check(const v1::ChatRequest& request, const std::vector<int32_t>& ids, bool complete) {
    const auto prompt = server_.prompt_ids(request.messages(0).parts(0).text());
    const auto wanted = static_cast<size_t>(request.stopping().max_tokens());
    if (complete && ids.size() != wanted) ++counts_.wrong;
    for (size_t i = 0; i < ids.size(); ++i) {
      counts_.wrong += ids[i] != fake_token(prompt, false, static_cast<int>(i));
    }
    counts_.tokens += ids.size();
  }

  void check_stream(const v1::ChatRequest& request, const StreamResult& result) {
    check(request, result.token_ids, result.status.ok());
    if (result.status.ok()) {
      ++counts_.complete;
      counts_.wrong += result.finals != 1;
      const std::string text = server_.tokenizer().decode(result.token_ids);
      counts_.wrong += result.text != (text.rfind(' ', 0) == 0 ? text.substr(1) : text);
    }
  }

  void call_streaming() {
    const v1::ChatRequest request = make_request(pick(1, 600));
    const StreamResult result = stream_chat(*stub_, request);
    counts_.unexpected += !result.status.ok();
    check_stream(request, result);
  }

  void call_unary() {
    const v1::ChatRequest request = make_request(pick(1, 600));
    grpc::ClientContext context;
    v1::ChatResponse response;
    const grpc::Status status = stub_->Chat(&context, request, &response);
    counts_.unexpected += !status.ok();
    check(request, {response.token_ids().begin(), response.token_ids().end()}, status.ok());
    ++counts_.unary;
  }

  void call_and_cancel() {
    const v1::ChatRequest request = make_request(pick(500, 4096));
    grpc::ClientContext context;
    auto reader = stub_->StreamChat(&context, request);
    StreamResult part;
    v1::StreamChatResponse message;
    for (int i = pick(0, 5); i > 0 && reader->Read(&message); --i) {
      for (const int32_t id : message.delta().token_ids()) part.token_ids.push_back(id);
    }
    context.TryCancel();
    // What was under way still has to follow on.
    StreamResult rest = read_stream(reader.get());
    part.token_ids.insert(part.token_ids.end(), rest.token_ids.begin(), rest.token_ids.end());
    check(request, part.token_ids, rest.status.ok());
    counts_.unexpected +=
        !rest.status.ok() && rest.status.error_code() != grpc::StatusCode::CANCELLED;
    ++counts_.cancelled;
  }

  void call_with_deadline() {
    const v1::ChatRequest request = make_request(pick(100, 4096));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() +
                         std::chrono::microseconds(pick(1, 40000)));
    const StreamResult result = read_stream(stub_->StreamChat(&context, request).get());
    counts_.unexpected +=
        !result.status.ok() && result.status.error_code() != grpc::StatusCode::DEADLINE_EXCEEDED;
    counts_.expired += !result.status.ok();
    check_stream(request, result);
  }

  // The first stream's reader is away while the second is read: its sequence fills up and waits.
  void read_one_stream_after_another() {
    const v1::ChatRequest first = make_request(pick(1000, 3000));
    const v1::ChatRequest second = make_request(pick(100, 1000));
    grpc::ClientContext first_context;
    grpc::ClientContext second_context;
    auto first_reader = stub_->StreamChat(&first_context, first);
    auto second_reader = stub_->StreamChat(&second_context, second);
    const StreamResult second_result = read_stream(second_reader.get());
    const StreamResult first_result = read_stream(first_reader.get());
    counts_.unexpected += !first_result.status.ok() + !second_result.status.ok();
    check_stream(second, second_result);
    check_stream(first, first_result);
    ++counts_.read_late;
  }

  const TestServer& server_;
  const std::unique_ptr<v1::CogServe::Stub> stub_;
  std::mt19937 random_;
  Counts& counts_;
};

TEST(ServerStress, every_token_reaches_its_own_caller_once_and_in_order) {
  TestServerOptions options;
  options.watch.patience = std::chrono::minutes(5);  // a machine that stalls is not a slow reader
  options.engine.slow_reader_time = std::chrono::minutes(5);
  TestServer server(options);
  Counts counts;
  std::vector<std::thread> threads;
  for (int i = 0; i < kClients; ++i) {
    threads.emplace_back([&, i] { Client(server, i, &counts).run(); });
  }
  for (std::thread& thread : threads) thread.join();

  EXPECT_EQ(counts.wrong, 0u);
  EXPECT_EQ(counts.unexpected, 0u);
  EXPECT_GE(counts.tokens, kWantedTokens);
  EXPECT_GT(counts.complete, 0u);
  EXPECT_GT(counts.cancelled, 0u);
  EXPECT_GT(counts.expired, 0u);
  EXPECT_GT(counts.read_late, 0u);
  EXPECT_GT(counts.unary, 0u);
  EXPECT_TRUE(server.server().wait_until_idle(std::chrono::minutes(1)));
  server.engine().wait_until_idle();
  std::printf("%" PRIu64 " tokens checked, %" PRIu64 " wrong; streams complete %" PRIu64
              ", cancelled %" PRIu64 ", expired %" PRIu64 ", read late %" PRIu64
              "; unary calls %" PRIu64 "\n",
              counts.tokens.load(), counts.wrong.load(), counts.complete.load(),
              counts.cancelled.load(), counts.expired.load(), counts.read_late.load(),
              counts.unary.load());
}

}  // namespace
}  // namespace cogserve
