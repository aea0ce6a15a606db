#include "tests/engine/tiny_model.hpp"

#include <gtest/gtest.h>

#include <random>
#include <utility>

#include "tests/temporary_directory.hpp"

namespace cogserve {
namespace {

constexpr char kConfig[] = R"({
  "architectures": ["CogVLMForCausalLM"],
  "hidden_act": "silu", "rms_norm_eps": 1e-05, "template_version": "chat",
  "bos_token_id": 0, "eos_token_id": [1, 2], "pad_token_id": 3,
  "max_position_embeddings": 512, "torch_dtype": "bfloat16",
  "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
  "num_multi_query_heads": 2, "vocab_size": 101, "num_hidden_layers": 2,
  "vision_config": {
    "hidden_act": "gelu", "in_channels": 3, "num_hidden_layers": 3, "hidden_size": 24,
    "patch_size": 14, "num_heads": 2, "intermediate_size": 40, "layer_norm_eps": 1e-06,
    "num_positions": 17, "image_size": 56
  }
})";

constexpr int kVocab = 101;
constexpr int kPixels = 3 * 56 * 56;

}  // namespace

std::string tiny_model_dir() {
  static const TemporaryDirectory directory;
  static const std::string file = directory.write("config.json", kConfig);
  return directory.path();
}

EngineConfig tiny_engine_config(const std::function<void(EngineConfig&)>& adjust) {
  EngineConfig config;
  config.model_dir = tiny_model_dir();
  config.load_format = LoadFormat::kDummy;
  config.seed = 7;
  config.threads = 1;
  config.kv_cache_bytes = size_t{4} << 20;
  if (adjust) adjust(config);
  return config;
}

std::unique_ptr<Engine> make_tiny_engine(const std::function<void(EngineConfig&)>& adjust) {
  auto engine = Engine::create(tiny_engine_config(adjust), nullptr);
  EXPECT_TRUE(engine.ok()) << engine.status();
  return engine.ok() ? *std::move(engine) : nullptr;
}

Request make_tiny_request(uint64_t seed, int text_tokens, bool with_image, int max_tokens) {
  std::mt19937_64 random(seed);
  Request request;
  request.id = "request-" + std::to_string(seed);
  for (int i = 0; i < text_tokens; ++i) {
    request.text_ids.push_back(4 + static_cast<int32_t>(random() % (kVocab - 4)));
  }
  if (with_image) {
    std::normal_distribution<float> normal;
    request.pixels.resize(kPixels);
    for (float& pixel : request.pixels) pixel = normal(random);
  }
  request.sampling.temperature = 0.0f;
  request.sampling.logprobs = 0;
  request.max_tokens = max_tokens;
  request.ignore_eos = true;
  return request;
}

Outcome drain(TokenStream& stream) {
  Outcome outcome;
  while (true) {
    TokenStream::Event event = stream.wait();
    if (auto* end = std::get_if<EndEvent>(&event)) {
      outcome.end = *end;
      return outcome;
    }
    const SampledToken& token = std::get<TokenEvent>(event).token;
    outcome.ids.push_back(token.id);
    outcome.logprobs.push_back(token.logprob);
  }
}

Outcome generate(Engine& engine, Request request) {
  auto stream = engine.submit(std::move(request));
  if (!stream.ok()) return {.ids = {}, .logprobs = {}, .end = {.status = stream.status()}};
  return drain(**stream);
}

}  // namespace cogserve
