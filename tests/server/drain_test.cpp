// A server that goes away: what runs is finished, what comes is refused, nothing hangs.
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "engine/base/error.hpp"
#include "server/serve.hpp"
#include "server/shutdown_watchdog.hpp"
#include "tests/server/test_server.hpp"

namespace cogserve {
namespace {

using std::chrono::milliseconds;

TEST(Drain, accepted_calls_finish_new_ones_are_refused_and_health_turns_first) {
  for (int round = 0; round < 20; ++round) {
    TestServer server;
    server.engine().pause();
    constexpr int kCalls = 8;
    std::vector<std::thread> callers;
    std::atomic<int> complete{0};
    for (int i = 0; i < kCalls; ++i) {
      callers.emplace_back([&, i] {
        const StreamResult stream =
            stream_chat(server.stub(), ask("call " + std::to_string(i), 50 + i));
        complete += stream.status.ok() && stream.finals == 1 &&
                    stream.token_ids.size() == static_cast<size_t>(50 + i);
      });
    }
    server.engine().wait_until_running(kCalls);
    server.engine().allow_steps(round);  // some have begun to answer, some have not
    server.server().begin_drain();

    const auto channel = server.connect();
    EXPECT_EQ(health_of(channel, ""), "NOT_SERVING");
    EXPECT_EQ(health_of(channel, "liveness"), "SERVING");
    const CallError refused = parse_error(stream_chat(server.stub(), ask("late")).status);
    EXPECT_EQ(refused.code, grpc::StatusCode::UNAVAILABLE);
    EXPECT_EQ(refused.reason, "DRAINING");
    EXPECT_GT(refused.retry_ms, 0);
    EXPECT_EQ(server.server().active_calls(), static_cast<size_t>(kCalls));

    server.engine().resume();
    EXPECT_TRUE(server.server().wait_until_idle(std::chrono::minutes(1)));
    // The answers may still be on their way out of the process.
    server.server().shutdown(std::chrono::minutes(1));
    for (std::thread& caller : callers) caller.join();
    EXPECT_EQ(complete, kCalls);
  }
}

TEST(Drain, a_server_that_closes_sends_clients_elsewhere_and_finishes_what_runs) {
  TestServer server;
  server.engine().pause();
  const auto channel = server.connect();
  const auto stub = v1::CogServe::NewStub(channel);
  grpc::ClientContext context;
  const auto running = stub->StreamChat(&context, ask("x", 50));
  server.engine().wait_until_running(1);
  server.server().begin_drain();
  server.server().close();
  server.server().close();
  // The connection is left for its call alone: the channel looks for another, and finds none.
  while (channel->GetState(false) == GRPC_CHANNEL_READY) std::this_thread::yield();
  EXPECT_EQ(chat(*stub, ask("late")).status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(server.server().active_calls(), 1u);
  server.engine().resume();
  EXPECT_TRUE(read_stream(running.get()).status.ok());
  server.server().shutdown(std::chrono::minutes(1));
}

TEST(Drain, what_is_left_at_the_end_is_ended_with_a_status) {
  TestServer server;
  server.engine().pause();
  std::vector<std::thread> callers;
  std::atomic<int> told{0};
  for (int i = 0; i < 6; ++i) {
    callers.emplace_back([&, i] {
      v1::ChatResponse response;
      grpc::ClientContext context;
      const grpc::Status status = i % 2 ? stream_chat(server.stub(), ask("x", 100)).status
                                        : server.stub().Chat(&context, ask("x", 100), &response);
      told += parse_error(status).reason == "DRAINING";
    });
  }
  server.engine().wait_until_running(6);
  server.server().begin_drain();
  EXPECT_FALSE(server.server().wait_until_idle(milliseconds(1)));
  server.server().abort_calls(
      make_error(absl::StatusCode::kUnavailable, "DRAINING", "", "the server shut down"));
  EXPECT_TRUE(server.server().wait_until_idle(std::chrono::minutes(1)));
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(told, 6);
  server.engine().wait_until_idle();
}

TEST(Drain, shutdown_does_not_wait_for_a_client_that_never_reads) {
  TestServer server;
  v1::ChatRequest big = ask("never read", 4096);
  big.set_logprobs(20);
  grpc::ClientContext context;
  const auto stub = v1::CogServe::NewStub(server.connect(true));
  auto reader = stub->StreamChat(&context, big);
  server.engine().wait_until_submitted(1);
  server.server().begin_drain();
  server.server().shutdown(milliseconds(10));
  server.engine().wait_until_idle();
  EXPECT_FALSE(read_stream(reader.get()).status.ok());
}

TEST(Drain, shutdown_does_not_wait_for_those_who_watch_health) {
  TestServer server;
  grpc::GenericStub stub(server.connect());
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  const auto watch = stub.PrepareCall(&context, "/grpc.health.v1.Health/Watch", &queue);
  void* event = nullptr;
  bool ok = false;
  watch->StartCall(&event);
  queue.Next(&event, &ok);
  const grpc::Slice whole_server("");
  watch->WriteLast(grpc::ByteBuffer(&whole_server, 1), grpc::WriteOptions(), &event);
  queue.Next(&event, &ok);
  grpc::ByteBuffer state;
  watch->Read(&state, &event);
  queue.Next(&event, &ok);
  EXPECT_TRUE(ok);
  server.server().begin_drain();
  server.server().shutdown(milliseconds(10));
  while (ok) {
    watch->Read(&state, &event);
    queue.Next(&event, &ok);
  }
  grpc::Status status;
  watch->Finish(&status, &event);
  queue.Next(&event, &ok);
  EXPECT_FALSE(status.ok());
}

TEST(Drain, a_second_shutdown_and_one_without_calls_are_fine) {
  TestServer server;
  server.server().begin_drain();
  EXPECT_TRUE(server.server().wait_until_idle(milliseconds(0)));
  server.server().shutdown(milliseconds(0));
  server.server().shutdown(milliseconds(0));
}

TEST(ShutdownWatchdogDeathTest, a_shutdown_that_hangs_fails_only_while_there_are_calls) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto hang = [](int exit_code) {
    const ShutdownWatchdog watchdog(Clock::now(), exit_code);
    while (true) ::pause();
  };
  EXPECT_EXIT(hang(kExitStuck), testing::ExitedWithCode(kExitStuck), "shutdown.stuck");
  EXPECT_EXIT(hang(0), testing::ExitedWithCode(0), "stopped while=.*the engine");
}

TEST(Drain, a_port_in_use_is_an_error_that_names_it) {
  TestServer server;
  NetworkOptions network;
  network.port = server.server().port();
  const auto second = GrpcServer::start(network, {}, {});
  ASSERT_FALSE(second.ok());
  EXPECT_NE(second.status().message().find(std::to_string(network.port)), std::string::npos);
}

}  // namespace
}  // namespace cogserve
