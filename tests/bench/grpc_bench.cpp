// What the road from the engine's door to a client costs: real gRPC on loopback over a fake engine,
// client and server on the same cores. Messages are fewer than tokens where a client is slower than
// the engine: what waits is sent as one delta.
#include <benchmark/benchmark.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "tests/server/test_server.hpp"

namespace cogserve {
namespace {

constexpr int kConnections = 4;

std::vector<std::unique_ptr<v1::CogServe::Stub>> connect(const TestServer& server) {
  std::vector<std::unique_ptr<v1::CogServe::Stub>> stubs;
  for (int i = 0; i < kConnections; ++i) {
    stubs.push_back(v1::CogServe::NewStub(server.connect()));
  }
  return stubs;
}

void streamed_tokens(benchmark::State& state) {
  const int streams = static_cast<int>(state.range(0));
  constexpr int kTokens = 512;
  TestServer server;
  const auto stubs = connect(server);
  std::atomic<int64_t> tokens{0};
  std::atomic<int64_t> messages{0};
  for (auto _ : state) {
    std::vector<std::thread> readers;
    for (int i = 0; i < streams; ++i) {
      readers.emplace_back([&, i] {
        const StreamResult result =
            stream_chat(*stubs[static_cast<size_t>(i % kConnections)], ask("x", kTokens));
        tokens += static_cast<int64_t>(result.token_ids.size());
        messages += static_cast<int64_t>(result.deltas.size()) + result.finals;
      });
    }
    for (std::thread& reader : readers) reader.join();
  }
  state.counters["tokens/s"] =
      benchmark::Counter(static_cast<double>(tokens), benchmark::Counter::kIsRate);
  state.counters["messages/s"] =
      benchmark::Counter(static_cast<double>(messages), benchmark::Counter::kIsRate);
}
BENCHMARK(streamed_tokens)->Arg(1)->Arg(32)->UseRealTime()->Unit(benchmark::kMillisecond);

void one_token_calls(benchmark::State& state) {
  const int callers = static_cast<int>(state.range(0));
  constexpr int kCalls = 50;
  TestServer server;
  const auto stubs = connect(server);
  std::atomic<int64_t> calls{0};
  for (auto _ : state) {
    std::vector<std::thread> threads;
    for (int i = 0; i < callers; ++i) {
      threads.emplace_back([&, i] {
        for (int call = 0; call < kCalls; ++call) {
          grpc::ClientContext context;
          v1::ChatResponse response;
          calls += stubs[static_cast<size_t>(i % kConnections)]
                       ->Chat(&context, ask("x", 1), &response)
                       .ok();
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  state.counters["calls/s"] =
      benchmark::Counter(static_cast<double>(calls), benchmark::Counter::kIsRate);
}
BENCHMARK(one_token_calls)->Arg(1)->Arg(16)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace cogserve

BENCHMARK_MAIN();
