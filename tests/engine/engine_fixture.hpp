// Engines of the tiny model, in both manners in which a backend may want its steps.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "engine/engine_loop.hpp"
#include "tests/engine/forwarding_backend.hpp"
#include "tests/engine/tiny_model.hpp"

namespace cogserve {

inline std::vector<Outcome> answers_together(Engine& engine, const std::vector<Request>& requests) {
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (const Request& request : requests) {
    auto stream = engine.submit(request);
    EXPECT_TRUE(stream.ok()) << stream.status();
    streams.push_back(*stream);
  }
  std::vector<Outcome> outcomes;
  for (const auto& stream : streams) outcomes.push_back(drain(*stream));
  return outcomes;
}

// The figures lag a step behind the streams: looks until they show a free engine, or gives up.
inline bool becomes_free(const Engine& engine) {
  for (int look = 0; look < 10'000'000; ++look) {
    const EngineStats stats = engine.stats();
    if (stats.waiting == 0 && stats.running == 0 && stats.blocks_used == 0) return true;
    std::this_thread::yield();
  }
  return false;
}

using Manner = ForwardingBackend::Manner;

inline std::unique_ptr<Engine> make_engine(
    Manner manner, const std::function<void(EngineConfig&)>& adjust = nullptr) {
  if (manner == Manner::kCpu) return make_tiny_engine(adjust);
  auto engine = start_engine(tiny_engine_config(adjust),
                             std::make_unique<ForwardingBackend>(manner), nullptr, nullptr);
  EXPECT_TRUE(engine.ok()) << engine.status();
  return *std::move(engine);
}

// An engine that takes each step's tokens before it plans the next, and one that works ahead with
// padded steps. What is expected comes from the first kind.
class EngineTest : public ::testing::TestWithParam<Manner> {
 protected:
  static std::unique_ptr<Engine> make(const std::function<void(EngineConfig&)>& adjust = nullptr) {
    return make_engine(GetParam(), adjust);
  }
};
INSTANTIATE_TEST_SUITE_P(Manners, EngineTest, ::testing::Values(Manner::kCpu, Manner::kGpu),
                         [](const auto& manner) {
                           return manner.param == Manner::kCpu ? "in_turn" : "ahead";
                         });

}  // namespace cogserve
