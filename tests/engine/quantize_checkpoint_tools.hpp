// A tiny dense checkpoint of random weights, and what `quantize_checkpoint` is asked to make of it.
#pragma once

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "engine/base/dtype.hpp"
#include "engine/model/dummy_weights.hpp"
#include "engine/model/native_layout.hpp"
#include "engine/model/weights.hpp"
#include "engine/quantize_checkpoint.hpp"
#include "tests/engine/tiny_checkpoint.hpp"
#include "tests/temporary_directory.hpp"

namespace cogserve {

inline constexpr WeightFormats kMixed{WeightFormat::kInt4, WeightFormat::kInt8,
                                      WeightFormat::kInt8};

inline std::string read(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream content;
  content << in.rdbuf();
  return content.str();
}

// Every file of a directory by name.
inline std::map<std::string, std::string> contents(const std::string& directory) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    files[entry.path().filename().string()] = read(entry.path().string());
  }
  return files;
}

// What changes a tensor before it is written.
using ChangeTensor = std::function<void(const std::string& name, std::span<BFloat16> values)>;

// Random weights, from DummyWeights, as a checkpoint in one file.
inline std::string random_checkpoint(const ModelConfig& config,
                                     const ChangeTensor& change = nullptr) {
  DummyWeights source(7, DType::kBF16);
  std::vector<OutputTensor> tensors;
  std::string data;
  for (const ModelTensor& tensor : list_tensors(config, {})) {
    const StoredTensor stored = source.require(tensor.name, tensor.shape).value();
    const HostTensor host = source.read(stored).value();
    tensors.push_back({tensor.name, "BF16", tensor.shape, host.elements() * 2});
    std::vector<BFloat16> values(host.elements());
    std::memcpy(values.data(), host.data, values.size() * 2);
    if (change) change(tensor.name, values);
    data.append(reinterpret_cast<const char*>(values.data()), values.size() * 2);
  }
  return safetensors_header(tensors) + data;
}

inline void write_source(const TemporaryDirectory& directory,
                         const ChangeTensor& change = nullptr) {
  directory.write("config.json", tiny_config_json());
  directory.write("tokenizer.json", "{\"a\": 1}");
  directory.write("generation_config.json", "{\"top_p\": 0.5}");
  directory.write("pytorch_model.bin", "never copied");
  directory.write("model.safetensors", random_checkpoint(tiny_config(), change));
}

inline QuantizeOptions options_for(const TemporaryDirectory& source,
                                   const std::string& destination) {
  return {.source = source.path(),
          .destination = destination,
          .formats = kMixed,
          .threads = 2,
          .shard_bytes = 4000};
}

}  // namespace cogserve
