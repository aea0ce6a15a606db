#include "engine/quantize_checkpoint.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "engine/base/error.hpp"
#include "engine/base/output_file.hpp"
#include "engine/model/dummy_weights.hpp"
#include "engine/model/native_layout.hpp"
#include "engine/model/quantize.hpp"
#include "engine/model/weights.hpp"
#include "tests/engine/quantize_checkpoint_tools.hpp"
#include "tests/engine/tiny_checkpoint.hpp"
#include "tests/temporary_directory.hpp"

namespace cogserve {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::HasSubstr;

// A tensor of a written checkpoint, found by index and header, read without the engine's readers.
struct Written {
  std::string dtype;
  std::vector<int64_t> shape;
  std::string data;

  float f16(size_t index) const {
    uint16_t bits;
    std::memcpy(&bits, data.data() + 2 * index, 2);
    return to_float(Float16{bits});
  }
  float f32(size_t index) const {
    float value;
    std::memcpy(&value, data.data() + 4 * index, 4);
    return value;
  }
};

Written find(const std::string& directory, const std::string& name) {
  const json index = json::parse(read(directory + "/model.safetensors.index.json"));
  const std::string file = read(directory + "/" + index["weight_map"].at(name).get<std::string>());
  uint64_t length;
  std::memcpy(&length, file.data(), 8);
  const json header = json::parse(file.substr(8, length));
  const json& entry = header.at(name);
  const size_t begin = entry["data_offsets"][0];
  const size_t end = entry["data_offsets"][1];
  return {entry["dtype"], entry["shape"], file.substr(8 + length + begin, end - begin)};
}

TEST(QuantizeCheckpoint, matrices_are_written_in_the_native_layout) {
  const TemporaryDirectory source;
  const TemporaryDirectory parent;
  write_source(source);
  const std::string destination = parent.path() + "/new";
  const auto report = quantize_checkpoint(options_for(source, destination), nullptr);
  ASSERT_TRUE(report.ok()) << report.status();
  DummyWeights dense(7, DType::kBF16);
  size_t matrices = 0;
  for (const ModelTensor& tensor : list_tensors(tiny_config(), kMixed)) {
    const HostTensor original =
        dense.read(dense.require(tensor.name, tensor.shape).value()).value();
    const Written written = find(destination, tensor.name);
    if (tensor.format == WeightFormat::kDense) {
      EXPECT_EQ(written.dtype, "BF16");
      EXPECT_EQ(written.shape, tensor.shape);
      EXPECT_EQ(std::memcmp(written.data.data(), original.data, written.data.size()), 0);
      continue;
    }
    ++matrices;
    const auto expected =
        QuantizedMatrix::quantize(original, tensor.name, tensor.format, 1).value();
    const Written scale = find(destination, tensor.name + "_scale");
    const int64_t out = tensor.shape[0];
    const int64_t in = tensor.shape[1];
    const bool int4 = tensor.format == WeightFormat::kInt4;
    EXPECT_EQ(written.dtype, int4 ? "U8" : "I8");
    EXPECT_EQ(written.shape, (std::vector<int64_t>{out, int4 ? in / 2 : in}));
    EXPECT_EQ(scale.dtype, int4 ? "F16" : "F32");
    EXPECT_EQ(scale.shape, (std::vector<int64_t>{out, 1}));
    for (int64_t row = 0; row < out; ++row) {
      for (int64_t i = 0; i < in; ++i) {
        float value = 0.0f;
        if (int4) {
          const auto pair = static_cast<unsigned char>(written.data[(row * in + i) / 2]);
          value = static_cast<float>((i % 2 == 0 ? pair & 15 : pair >> 4) - 8) * scale.f16(row);
        } else {
          value =
              static_cast<float>(static_cast<int8_t>(written.data[row * in + i])) * scale.f32(row);
        }
        ASSERT_EQ(value, weight_value(expected.weight(), row, i)) << tensor.name;
      }
    }
  }
  EXPECT_EQ(report->tensors.size(), matrices);
  EXPECT_GT(matrices, 20u);
}

TEST(QuantizeCheckpoint, the_directory_is_complete_and_says_what_it_is) {
  const TemporaryDirectory source;
  const TemporaryDirectory destination;
  write_source(source);
  int64_t last = 0;
  int64_t all = 0;
  const auto report = quantize_checkpoint(options_for(source, destination.path()),
                                          [&](int64_t done, int64_t total) {
                                            EXPECT_GT(done, last);
                                            last = done;
                                            all = total;
                                          });
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(last, all);
  EXPECT_EQ(all, report->bytes_before);
  EXPECT_GT(report->shards, 2);
  const auto files = contents(destination.path());
  EXPECT_EQ(files.at("tokenizer.json"), "{\"a\": 1}");
  EXPECT_TRUE(files.contains("generation_config.json"));
  EXPECT_FALSE(files.contains("pytorch_model.bin"));
  EXPECT_FALSE(files.contains("model.safetensors"));
  int64_t total = 0;
  for (const auto& [name, content] : files) {
    EXPECT_THAT(name, ::testing::Not(HasSubstr(".partial")));
    if (!name.ends_with(".safetensors")) continue;
    uint64_t length;
    std::memcpy(&length, content.data(), 8);
    EXPECT_EQ(length % 8, 0u);
    total += static_cast<int64_t>(content.size() - 8 - length);
  }
  EXPECT_EQ(total, report->bytes_after);
  const json config = json::parse(files.at("config.json"));
  json original = json::parse(tiny_config_json());
  original["quantization_config"] = {
      {"quant_method", "cogserve"}, {"version", 1}, {"group_size", 128}};
  EXPECT_EQ(config, original);
  const json written = json::parse(files.at("quantization_report.json"));
  EXPECT_EQ(written["tensors"].size(), report->tensors.size());
  for (const QuantizedTensor& tensor : report->tensors) {
    EXPECT_LT(tensor.relative_error, tensor.format == WeightFormat::kInt4 ? 0.15 : 0.02);
    EXPECT_GT(tensor.relative_error, 0.0);
  }
}

TEST(QuantizeCheckpoint, a_quantised_source_is_refused) {
  const TemporaryDirectory source;
  const TemporaryDirectory destination;
  write_source(source);
  json config = json::parse(tiny_config_json());
  config["quantization_config"] = {{"quant_method", "gptq"}};
  source.write("config.json", config.dump());
  const QuantizeOptions options = options_for(source, destination.path());
  EXPECT_EQ(error_reason(quantize_checkpoint(options, nullptr).status()), "ALREADY_QUANTIZED");
  config["quantization_config"] = nullptr;
  source.write("config.json", config.dump());
  EXPECT_TRUE(quantize_checkpoint(options, nullptr).ok());
}

TEST(OutputFile, has_its_name_only_when_it_is_whole) {
  const TemporaryDirectory directory;
  {
    auto abandoned = OutputFile::create(directory.path(), "a");
    ASSERT_TRUE(abandoned.ok());
    ASSERT_TRUE(abandoned->append("half", 4).ok());
  }
  EXPECT_FALSE(fs::exists(directory.path() + "/a"));
  ASSERT_TRUE(write_file(directory.path(), "a", "whole").ok());
  EXPECT_EQ(read(directory.path() + "/a"), "whole");
  EXPECT_FALSE(fs::exists(directory.path() + "/a.partial"));
  const absl::Status failed = write_file(directory.path() + "/nowhere", "a", "x");
  EXPECT_EQ(error_reason(failed), "FILE_WRITE");
}

}  // namespace
}  // namespace cogserve
