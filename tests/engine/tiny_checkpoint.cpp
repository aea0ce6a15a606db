#include "tests/engine/tiny_checkpoint.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "engine/backend/backend.hpp"
#include "engine/base/error.hpp"
#include "engine/model/weights.hpp"
#include "tests/temporary_directory.hpp"

namespace cogserve {
namespace {

// Writes down what is asked for, then ends the loading.
class Recorder : public WeightSource {
 public:
  absl::StatusOr<StoredTensor> require(const std::string& name,
                                       const std::vector<int64_t>& shape) override {
    tensors.push_back({name, "BF16", shape});
    return StoredTensor{name, DType::kBF16, shape, 0};
  }
  absl::Status finish() const override { return absl::CancelledError("recorded"); }
  absl::StatusOr<HostTensor> read(const StoredTensor&) override {
    return absl::InternalError("never reached");
  }
  void release(const StoredTensor&) override {}

  std::vector<TinyTensor> tensors;
};

}  // namespace

std::string safetensors_file(const std::string& header, size_t data_bytes) {
  std::string file;
  for (int i = 0; i < 8; ++i) file += static_cast<char>(header.size() >> (8 * i));
  return file + header + std::string(data_bytes, '\0');
}

size_t TinyTensor::bytes() const {
  size_t bytes = dtype.ends_with("32") ? 4 : dtype.ends_with("16") ? 2 : 1;
  for (const int64_t dim : shape) bytes *= static_cast<size_t>(dim);
  return bytes;
}

std::string safetensors_file(const std::vector<TinyTensor>& tensors) {
  nlohmann::json header = nlohmann::json::object();
  size_t at = 0;
  std::string data;
  for (const TinyTensor& tensor : tensors) {
    header[tensor.name] = {{"dtype", tensor.dtype},
                           {"shape", tensor.shape},
                           {"data_offsets", {at, at + tensor.bytes()}}};
    at += tensor.bytes();
    EXPECT_LE(tensor.content.size(), tensor.bytes()) << tensor.name;
    data += tensor.content;
    data.resize(at, '\0');
  }
  return safetensors_file(header.dump(), 0) + data;
}

std::string tiny_config_json() {
  return R"({
    "architectures": ["CogVLMForCausalLM"], "hidden_act": "silu", "rms_norm_eps": 1e-05,
    "template_version": "chat", "bos_token_id": 0, "eos_token_id": [1, 2], "pad_token_id": 3,
    "max_position_embeddings": 64, "torch_dtype": "bfloat16", "hidden_size": 16,
    "intermediate_size": 24, "num_attention_heads": 4, "num_multi_query_heads": 2,
    "vocab_size": 32, "num_hidden_layers": 2,
    "vision_config": {
      "hidden_act": "gelu", "in_channels": 3, "num_hidden_layers": 2, "hidden_size": 12,
      "patch_size": 2, "num_heads": 3, "intermediate_size": 20, "layer_norm_eps": 1e-06,
      "num_positions": 17, "image_size": 8
    }
  })";
}

ModelConfig tiny_config() {
  const TemporaryDirectory directory;
  directory.write("config.json", tiny_config_json());
  return read_model_config(directory.path()).value();
}

ModelConfig published_config() {
  ModelConfig config;
  config.layers = 32;
  config.hidden = 4096;
  config.heads = 32;
  config.kv_heads = 8;
  config.intermediate = 14336;
  config.vocab = 128256;
  config.max_positions = 8192;
  config.vision = {.layers = 63,
                   .hidden = 1792,
                   .heads = 16,
                   .intermediate = 15360,
                   .patch = 14,
                   .image_size = 1344};
  return config;
}

std::vector<TinyTensor> tensors_of(const ModelConfig& config) {
  Recorder recorder;
  EXPECT_TRUE(absl::IsCancelled(load_weights(nullptr, config, &recorder, nullptr).status()));
  return recorder.tensors;
}

}  // namespace cogserve
