// A model small enough to run thousands of steps a second, with every trait of the real one.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/engine.hpp"

namespace cogserve {

// A directory with its config.json, there until the process ends. Served with LoadFormat::kDummy,
// it needs no weights.
std::string tiny_model_dir();

// How to serve it; `adjust` may change this.
EngineConfig tiny_engine_config(const std::function<void(EngineConfig&)>& adjust = nullptr);

// An engine of the tiny model; `adjust` may change the configuration before it starts.
std::unique_ptr<Engine> make_tiny_engine(
    const std::function<void(EngineConfig&)>& adjust = nullptr);

// A greedy request of `text_tokens` pseudo-random tokens, with a pseudo-random picture if asked.
Request make_tiny_request(uint64_t seed, int text_tokens, bool with_image, int max_tokens);

// What came out of one stream.
struct Outcome {
  std::vector<int32_t> ids;
  std::vector<float> logprobs;
  EndEvent end;
};

// Reads the stream to its end.
Outcome drain(TokenStream& stream);

// submit + drain; a refused request is an outcome with that status.
Outcome generate(Engine& engine, Request request);

}  // namespace cogserve
