// A tiny checkpoint as values, to be damaged at will and written to a directory of its own.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/config.hpp"

namespace cogserve {

// `header` as it stands, after its length, then `data_bytes` bytes of value 0.
std::string safetensors_file(const std::string& header, size_t data_bytes);

struct TinyTensor {
  std::string name;
  std::string dtype;  // "F32", "F16", "BF16", "I32", "I8", "U8"
  std::vector<int64_t> shape;
  std::string content = {};  // empty: zeros

  size_t bytes() const;
};

// A valid file with these tensors.
std::string safetensors_file(const std::vector<TinyTensor>& tensors);

// A configuration with every trait of the real one, and the same as JSON.
std::string tiny_config_json();
ModelConfig tiny_config();

// The shape of cogvlm2-llama3-chat-19B.
ModelConfig published_config();

// Every tensor that a model of this configuration needs, as bf16.
std::vector<TinyTensor> tensors_of(const ModelConfig& config);

}  // namespace cogserve
