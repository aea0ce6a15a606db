#include "engine/model/weights.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>

#include "engine/base/error.hpp"
#include "engine/model/checkpoint.hpp"
#include "engine/model/dummy_weights.hpp"
#include "engine/model/quantize.hpp"
#include "tests/engine/counting_backend.hpp"
#include "tests/engine/tiny_checkpoint.hpp"
#include "tests/temporary_directory.hpp"

namespace cogserve {
namespace {

// Serves f32 tensors whose element i is `first + i`, and writes down in what order they are read.
class CountingSource : public WeightSource {
 public:
  absl::StatusOr<StoredTensor> require(const std::string& name,
                                       const std::vector<int64_t>& shape) override {
    EXPECT_FALSE(finished_) << "everything is required before anything is read";
    // Stored in the opposite order to that in which it is required.
    return StoredTensor{name, DType::kF32, shape, -static_cast<int64_t>(++required_)};
  }
  absl::Status finish() const override {
    finished_ = true;
    return absl::OkStatus();
  }
  absl::StatusOr<HostTensor> read(const StoredTensor& tensor) override {
    EXPECT_TRUE(finished_);
    EXPECT_EQ(held_, 0) << "one tensor at a time";
    ++held_;
    orders.push_back(tensor.order);
    HostTensor host{nullptr, DType::kF32, tensor.shape};
    values_.resize(host.elements());
    for (size_t i = 0; i < values_.size(); ++i) values_[i] = static_cast<float>(i);
    host.data = reinterpret_cast<const std::byte*>(values_.data());
    return host;
  }
  void release(const StoredTensor&) override { --held_; }

  std::vector<int64_t> orders;

 private:
  size_t required_ = 0;
  int held_ = 0;
  mutable bool finished_ = false;
  std::vector<float> values_;
};

std::vector<float> values_of(Backend& backend, const Parameter& parameter) {
  const Tensor& tensor = parameter.tensor;
  EXPECT_EQ(tensor.dtype, DType::kF32);
  std::vector<float> values(tensor.rows * tensor.cols);
  backend.download(tensor, values.data());
  return values;
}

// What `linear` does to the rows of the identity: W's columns.
std::vector<std::vector<float>> columns_of(Backend& backend, const Weight& weight) {
  std::vector<float> identity(weight.in_features * weight.in_features, 0.0f);
  for (int64_t i = 0; i < weight.in_features; ++i) identity[i * weight.in_features + i] = 1.0f;
  const Buffer x_memory = backend.allocate(identity.size() * 4).value();
  const Buffer y_memory = backend.allocate(weight.in_features * weight.out_features * 4).value();
  const Tensor x =
      Tensor::matrix(x_memory.data(), DType::kF32, weight.in_features, weight.in_features);
  const Tensor y =
      Tensor::matrix(y_memory.data(), DType::kF32, weight.in_features, weight.out_features);
  backend.upload(identity.data(), x);
  backend.linear(x, weight, nullptr, y);
  std::vector<float> flat(y.rows * y.cols);
  backend.download(y, flat.data());
  std::vector<std::vector<float>> columns;
  for (int64_t c = 0; c < y.rows; ++c) {
    columns.emplace_back(flat.begin() + c * y.cols, flat.begin() + (c + 1) * y.cols);
  }
  return columns;
}

TEST(Weights, the_published_model_has_its_published_tensors_and_bytes) {
  const std::vector<TinyTensor> tensors = tensors_of(published_config());
  const size_t inverse_frequencies = 32;
  EXPECT_EQ(tensors.size(), 1221 - inverse_frequencies);
  size_t bytes = 0;
  for (const TinyTensor& tensor : tensors) bytes += tensor.bytes();
  EXPECT_EQ(bytes, 39006214656u - inverse_frequencies * 64 * 2);
  std::map<std::string, int> names;
  for (const TinyTensor& tensor : tensors) EXPECT_EQ(++names[tensor.name], 1) << tensor.name;
}

TEST(Weights, are_read_one_by_one_in_the_order_of_the_files) {
  const auto backend = make_backend("cpu", 1).value();
  CountingSource source;
  std::vector<int64_t> done;
  int64_t last_total = 0;
  const auto weights =
      load_weights(backend.get(), tiny_config(), &source, [&](int64_t bytes, int64_t total) {
        done.push_back(bytes);
        last_total = total;
      });
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ(source.orders.size(), tensors_of(tiny_config()).size());
  EXPECT_TRUE(std::is_sorted(source.orders.begin(), source.orders.end()));
  EXPECT_EQ(done.size(), source.orders.size());
  EXPECT_TRUE(std::is_sorted(done.begin(), done.end()));
  EXPECT_EQ(done.back(), last_total);
}

TEST(Weights, land_where_they_belong) {
  const auto backend = make_backend("cpu", 1).value();
  const ModelConfig config = tiny_config();
  CountingSource source;
  const auto weights = load_weights(backend.get(), config, &source, nullptr).value();

  const ExpertWeights& vision = weights.decoder.layers[1].vision;
  const ExpertWeights& language = weights.decoder.layers[1].language;
  EXPECT_EQ(vision.qkv.weight.out_features, config.qkv_width());
  EXPECT_EQ(values_of(*backend, vision.qkv.bias).size(), static_cast<size_t>(config.qkv_width()));
  EXPECT_EQ(language.qkv.bias.tensor.data, nullptr) << "only the vision expert has a bias";
  EXPECT_EQ(language.dense.bias.tensor.data, nullptr);
  EXPECT_EQ(weights.decoder.norm.bias.tensor.data, nullptr) << "an RMSNorm has no bias";
  EXPECT_EQ(weights.vision.boi.tensor.rows, 1);
  EXPECT_EQ(weights.vision.boi.tensor.cols, config.hidden);
  EXPECT_EQ(weights.vision.positions.tensor.rows, config.vision.rows());
  EXPECT_EQ(weights.vision.projection.bias.tensor.data, nullptr);
  const auto columns = columns_of(*backend, language.mlp.gate.weight);
  EXPECT_EQ(columns[3][2], 2.0f * config.hidden + 3.0f) << "row 2, column 3";
}

TEST(Weights, columns_of_the_merge_follow_the_cells) {
  const auto backend = make_backend("cpu", 1).value();
  const ModelConfig config = tiny_config();
  CountingSource source;
  const auto weights = load_weights(backend.get(), config, &source, nullptr).value();
  const auto columns = columns_of(*backend, weights.vision.merge.weight);
  const int channels = config.vision.hidden;
  ASSERT_EQ(columns.size(), 4u * channels);
  for (int out = 0; out < channels; ++out) {
    for (int cell = 0; cell < 4; ++cell) {
      for (int c = 0; c < channels; ++c) {
        // The source is [out, channel, y, x] and counts up.
        EXPECT_EQ(columns[cell * channels + c][out],
                  static_cast<float>((out * channels + c) * 4 + cell));
      }
    }
  }
}

TEST(Weights, keep_the_dtype_of_the_checkpoint) {
  const auto backend = make_backend("cpu", 1).value();
  const std::pair<std::string, DType> dtypes[] = {
      {"BF16", DType::kBF16}, {"F16", DType::kF16}, {"F32", DType::kF32}};
  for (const auto& [name, dtype] : dtypes) {
    std::vector<TinyTensor> tensors = tensors_of(tiny_config());
    for (TinyTensor& tensor : tensors) tensor.dtype = name;
    const TemporaryDirectory directory;
    directory.write("model.safetensors", safetensors_file(tensors));
    Checkpoint checkpoint = Checkpoint::open(directory.path()).value();
    const auto weights = load_weights(backend.get(), tiny_config(), &checkpoint, nullptr);
    ASSERT_TRUE(weights.ok()) << weights.status();
    EXPECT_EQ(weights->decoder.head.weight.dtype, dtype);
    EXPECT_EQ(weights->vision.merge.weight.dtype, dtype);
    EXPECT_EQ(weights->decoder.embedding.tensor.dtype, dtype);
    EXPECT_EQ(weights->decoder.norm.weight.tensor.dtype, DType::kF32);
  }
}

// Every combination of formats that can be asked for.
std::vector<WeightFormats> all_formats() {
  std::vector<WeightFormats> all;
  for (const WeightFormat decoder : {WeightFormat::kDense, WeightFormat::kInt4}) {
    for (const WeightFormat vision :
         {WeightFormat::kDense, WeightFormat::kInt8, WeightFormat::kInt4}) {
      for (const WeightFormat head : {WeightFormat::kDense, WeightFormat::kInt8}) {
        all.push_back({decoder, vision, head});
      }
    }
  }
  return all;
}

TEST(Weights, are_quantised_as_they_are_told) {
  const auto backend = make_backend("cpu", 2).value();
  for (const WeightFormats& formats : all_formats()) {
    DummyWeights source(1, DType::kBF16);
    const auto weights =
        load_weights(backend.get(), tiny_config(), &source, nullptr, {formats, 2}).value();
    for (const DecoderLayerWeights& layer : weights.decoder.layers) {
      for (const ExpertWeights* expert : {&layer.language, &layer.vision}) {
        for (const Linear* linear : {&expert->qkv, &expert->dense, &expert->mlp.gate,
                                     &expert->mlp.up, &expert->mlp.down}) {
          EXPECT_EQ(linear->weight.format, formats.decoder);
        }
      }
    }
    const VisionWeights& vision = weights.vision;
    for (const VisionLayerWeights& layer : vision.layers) {
      for (const Linear* linear : {&layer.qkv, &layer.dense, &layer.fc1, &layer.fc2}) {
        EXPECT_EQ(linear->weight.format, formats.vision);
      }
    }
    for (const Linear* linear :
         {&vision.projection, &vision.mlp.gate, &vision.mlp.up, &vision.mlp.down}) {
      EXPECT_EQ(linear->weight.format, formats.vision);
    }
    EXPECT_EQ(vision.patch.weight.format, WeightFormat::kDense);
    EXPECT_EQ(vision.merge.weight.format, WeightFormat::kDense);
    EXPECT_EQ(weights.decoder.head.weight.format, formats.head);
  }
}

TEST(Weights, quantising_on_the_way_gives_what_quantising_the_tensor_gives) {
  const auto backend = make_backend("cpu", 1).value();
  DummyWeights source(1, DType::kBF16);
  const auto weights = load_weights(backend.get(), tiny_config(), &source, nullptr,
                                    {{.decoder = WeightFormat::kInt4}, 1})
                           .value();
  const Linear& down = weights.decoder.layers[1].vision.mlp.down;
  const StoredTensor stored = source
                                  .require("model.layers.1.mlp.vision_mlp.down_proj.weight",
                                           {down.weight.out_features, down.weight.in_features})
                                  .value();
  const HostTensor tensor = source.read(stored).value();
  const auto quantized =
      QuantizedMatrix::quantize(tensor, stored.name, WeightFormat::kInt4, 1).value();
  // A one is rounded to int8 without loss, up to the product of two scales.
  const auto columns = columns_of(*backend, down.weight);
  for (int64_t out = 0; out < down.weight.out_features; ++out) {
    for (int64_t in = 0; in < down.weight.in_features; ++in) {
      const float expected = weight_value(quantized.weight(), out, in);
      EXPECT_NEAR(columns[in][out], expected, 1e-6f * std::fabs(expected));
    }
  }
}

TEST(Weights, the_plan_is_what_loading_allocates) {
  for (const WeightFormats& formats : all_formats()) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      CountingBackend backend;
      DummyWeights source(1, dtype);
      const auto weights =
          load_weights(&backend, tiny_config(), &source, nullptr, {formats, 1}).value();
      const WeightBytes measured =
          measure_weights(*device_traits("cpu"), tiny_config(), formats, &source).value();
      EXPECT_EQ(measured.decoder + measured.vision, backend.bytes);
    }
  }
}

TEST(Weights, an_int4_model_with_an_int8_tower_takes_a_third_of_the_bytes) {
  const WeightFormats int4{WeightFormat::kInt4, WeightFormat::kInt4, WeightFormat::kDense};
  const WeightFormats int8_tower{WeightFormat::kInt4, WeightFormat::kInt8, WeightFormat::kDense};
  const auto gigabytes = [](const WeightFormats& formats) {
    DummyWeights source(0, DType::kBF16);
    const WeightBytes bytes =
        measure_weights(*device_traits("cpu"), published_config(), formats, &source).value();
    return static_cast<double>(bytes.decoder + bytes.vision) / 1e9;
  };
  EXPECT_NEAR(gigabytes(int4), 11.7, 0.1);
  EXPECT_NEAR(gigabytes(int8_tower), 14.0, 0.1);
}

TEST(Weights, nothing_is_loaded_from_a_checkpoint_with_an_extra_tensor) {
  const auto backend = make_backend("cpu", 1).value();
  std::vector<TinyTensor> tensors = tensors_of(tiny_config());
  tensors.push_back({"extra", "F32", {1}});
  const TemporaryDirectory directory;
  directory.write("model.safetensors", safetensors_file(tensors));
  Checkpoint checkpoint = Checkpoint::open(directory.path()).value();
  int loaded = 0;
  const auto weights =
      load_weights(backend.get(), tiny_config(), &checkpoint, [&](int64_t, int64_t) { ++loaded; });
  EXPECT_EQ(error_reason(weights.status()), "CHECKPOINT_EXTRA_TENSOR");
  EXPECT_EQ(loaded, 0);
}

TEST(Weights, what_cannot_be_quantised_is_named_with_its_file) {
  const auto backend = make_backend("cpu", 1).value();
  std::vector<TinyTensor> tensors = tensors_of(tiny_config());
  for (TinyTensor& tensor : tensors) {
    if (tensor.name.ends_with("language_mlp.up_proj.weight")) {
      tensor.content.assign(tensor.bytes(), '\xff');
    }
  }
  const TemporaryDirectory directory;
  directory.write("model.safetensors", safetensors_file(tensors));
  Checkpoint checkpoint = Checkpoint::open(directory.path()).value();
  const WeightFormats int4{WeightFormat::kInt4, WeightFormat::kInt4, WeightFormat::kDense};
  const absl::Status status =
      load_weights(backend.get(), tiny_config(), &checkpoint, nullptr, {int4, 1}).status();
  EXPECT_EQ(error_reason(status), "WEIGHT_NOT_FINITE");
  EXPECT_THAT(std::string(status.message()),
              ::testing::HasSubstr("/model.safetensors: tensor 'model.layers."));
}

std::vector<float> dummy(uint64_t seed, DType dtype, const std::string& name,
                         const std::vector<int64_t>& shape) {
  DummyWeights source(seed, dtype);
  const StoredTensor stored = source.require(name, shape).value();
  const HostTensor tensor = source.read(stored).value();
  std::vector<float> values;
  for (int64_t i = 0; i < tensor.elements(); ++i) values.push_back(host_value(tensor, i));
  return values;
}

TEST(DummyWeights, are_a_function_of_seed_and_name) {
  const auto once = dummy(1, DType::kF32, "a.weight", {30, 7});
  EXPECT_EQ(once, dummy(1, DType::kF32, "a.weight", {30, 7}));
  EXPECT_NE(once, dummy(2, DType::kF32, "a.weight", {30, 7}));
  EXPECT_NE(once, dummy(1, DType::kF32, "b.weight", {30, 7}));
}

// Large tensors are filled by several threads, each a part whose place depends on the size.
TEST(DummyWeights, a_value_depends_on_its_index_alone) {
  const auto longer = dummy(1, DType::kBF16, "a.bias", {(3 << 20) + 2});
  const auto shorter = dummy(1, DType::kBF16, "a.bias", {2'200'003});
  ASSERT_GT(longer.size(), shorter.size());
  EXPECT_TRUE(std::equal(shorter.begin(), shorter.end(), longer.begin()));
}

TEST(DummyWeights, have_a_spread_of_one_over_the_square_root_of_the_inputs) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    const auto values = dummy(3, dtype, "a.weight", {200, 400});
    double sum = 0, squares = 0;
    for (const float value : values) {
      sum += value;
      squares += double{value} * value;
    }
    EXPECT_NEAR(sum / values.size(), 0.0, 1e-3) << dtype_name(dtype);
    EXPECT_NEAR(std::sqrt(squares / values.size()), 0.05, 1e-3) << dtype_name(dtype);
  }
}

TEST(DummyWeights, agree_between_dtypes_but_for_rounding) {
  const auto f32 = dummy(3, DType::kF32, "a.weight", {20, 40});
  const auto f16 = dummy(3, DType::kF16, "a.weight", {20, 40});
  const auto bf16 = dummy(3, DType::kBF16, "a.weight", {20, 40});
  for (size_t i = 0; i < f32.size(); ++i) {
    EXPECT_NEAR(f16[i], f32[i], std::abs(f32[i]) / 1024 + 7e-5);
    EXPECT_NEAR(bf16[i], f32[i], std::abs(f32[i]) / 256);
  }
}

TEST(DummyWeights, norms_are_near_one_and_biases_near_zero) {
  for (const float value : dummy(1, DType::kBF16, "model.norm.weight", {100})) {
    EXPECT_NEAR(value, 1.0f, 0.11f);
  }
  for (const float value : dummy(1, DType::kBF16, "model.vision.conv.bias", {100})) {
    EXPECT_NEAR(value, 0.0f, 0.021f);
  }
}

}  // namespace
}  // namespace cogserve
