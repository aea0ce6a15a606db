// Whole checkpoints in every layout, written and dequantised by tests/reference/make_quantised.py.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <filesystem>
#include <map>
#include <utility>

#include "engine/backend/backend.hpp"
#include "engine/base/error.hpp"
#include "engine/config.hpp"
#include "engine/model/checkpoint.hpp"
#include "engine/model/weights.hpp"
#include "tests/engine/counting_backend.hpp"
#include "tests/engine/tiny_checkpoint.hpp"
#include "tests/temporary_directory.hpp"

namespace cogserve {
namespace {

using testing::HasSubstr;

std::string fixture(const std::string& name) {
  return COGSERVE_SOURCE_DIR "/tests/data/quantised/" + name;
}

// Asks a checkpoint for what the model needs, as loading does, and stops before anything is read.
class Requirements : public WeightSource {
 public:
  explicit Requirements(Checkpoint* checkpoint) : checkpoint_(checkpoint) {}

  absl::StatusOr<StoredTensor> require(const std::string& name,
                                       const std::vector<int64_t>& shape) override {
    return keep(checkpoint_->require(name, shape));
  }
  absl::StatusOr<StoredTensor> require_weight(const std::string& name,
                                              const std::vector<int64_t>& shape) override {
    return keep(checkpoint_->require_weight(name, shape));
  }
  absl::Status finish() const override {
    const absl::Status finished = checkpoint_->finish();
    return finished.ok() ? absl::CancelledError("all is there") : finished;
  }
  absl::StatusOr<HostTensor> read(const StoredTensor&) override {
    return absl::InternalError("never reached");
  }
  void release(const StoredTensor&) override {}

  std::map<std::string, StoredTensor> tensors;

 private:
  absl::StatusOr<StoredTensor> keep(absl::StatusOr<StoredTensor> stored) {
    if (stored.ok()) tensors[stored->name] = *stored;
    return stored;
  }

  Checkpoint* checkpoint_;
};

// A fixture, opened and asked for all of its model's tensors.
struct Opened {
  explicit Opened(const std::string& name)
      : config(read_model_config(fixture(name)).value()),
        checkpoint(Checkpoint::open(fixture(name), config.quantization).value()) {
    Requirements requirements(&checkpoint);
    const auto stopped = load_weights(nullptr, config, &requirements, nullptr);
    EXPECT_TRUE(absl::IsCancelled(stopped.status())) << stopped.status();
    tensors = std::move(requirements.tensors);
  }

  ModelConfig config;
  Checkpoint checkpoint;
  std::map<std::string, StoredTensor> tensors;
};

struct Expected {
  std::string name;
  WeightFormat format;
  bool has_zeros;
  int matrices;
  std::string description;
};

std::vector<Expected> expected_sets() {
  constexpr auto kInt4 = WeightFormat::kInt4;
  constexpr auto kCodebook4 = WeightFormat::kCodebook4;
  return {
      {"native", kInt4, false, 14,
       "cogserve int4: 14 matrices; cogserve int8: 5 matrices; dense: 1"},
      {"bitsandbytes-nf4", kCodebook4, false, 18, "bitsandbytes nf4: 18 matrices; dense: 2"},
      {"bitsandbytes-nf4-nested", kCodebook4, false, 18,
       "bitsandbytes nf4, nested scales: 18 matrices; dense: 2"},
      {"bitsandbytes-fp4", kCodebook4, false, 18, "bitsandbytes fp4: 18 matrices; dense: 2"},
      {"bitsandbytes-fp4-own-map", kCodebook4, false, 6,
       "bitsandbytes fp4 with another quant_map, nested scales: 6 matrices; dense: 14"},
      {"gptq-v1", kInt4, false, 18, "gptq int4: 18 matrices; dense: 2"},
      {"gptq-v2-called-v1", kInt4, false, 18, "gptq int4: 18 matrices; dense: 2"},
      {"gptq-v1-zeros", kInt4, true, 18, "gptq int4 with zeros: 18 matrices; dense: 2"},
      {"gptq-v2-zeros", kInt4, true, 18, "gptq int4 with zeros: 18 matrices; dense: 2"},
      {"autoround", kInt4, false, 10, "intel/auto-round int4: 10 matrices; dense: 10"},
      {"autoround-zeros", kInt4, true, 14,
       "intel/auto-round int4 with zeros: 14 matrices; dense: 6"},
  };
}

// Bit for bit.
void compare(const HostWeight& weight, const HostTensor& expected, const std::string& what) {
  ASSERT_EQ(weight.out_features, expected.shape[0]) << what;
  ASSERT_EQ(weight.in_features, expected.shape[1]) << what;
  for (int64_t row = 0; row < weight.out_features; ++row) {
    for (int64_t col = 0; col < weight.in_features; ++col) {
      const float want = host_value(expected, row * weight.in_features + col);
      const float got = weight_value(weight, row, col);
      ASSERT_EQ(std::bit_cast<uint32_t>(got), std::bit_cast<uint32_t>(want))
          << what << " [" << row << ", " << col << "]: " << got << " instead of " << want;
    }
  }
}

TEST(QuantisedCheckpoint, every_layout_gives_the_values_of_its_definition) {
  for (const Expected& set : expected_sets()) {
    SCOPED_TRACE(set.name);
    Opened opened(set.name);
    Checkpoint values = Checkpoint::open(fixture(set.name + "/expected")).value();
    int matrices = 0;
    for (const auto& [name, stored] : opened.tensors) {
      if (stored.format == WeightFormat::kDense) {
        EXPECT_TRUE(absl::IsNotFound(values.require(name, stored.shape).status())) << name;
        continue;
      }
      const auto weight = opened.checkpoint.read_weight(stored);
      ASSERT_TRUE(weight.ok()) << weight.status();
      EXPECT_EQ(weight->format, stored.format);
      EXPECT_EQ(weight->dtype, stored.dtype);
      if (stored.format == set.format) {
        ++matrices;
        EXPECT_EQ(weight->has_zeros, set.has_zeros) << name;
        EXPECT_EQ(stored.has_zeros, set.has_zeros) << name;
        EXPECT_EQ(weight->scale_dtype, stored.scale_dtype) << name;
      }
      const auto wanted = values.require(name, stored.shape);
      ASSERT_TRUE(wanted.ok()) << wanted.status();
      compare(*weight, values.read(*wanted).value(), name);
      opened.checkpoint.release(stored);
    }
    EXPECT_EQ(matrices, set.matrices);
    EXPECT_EQ(opened.checkpoint.description(), set.description);
    EXPECT_TRUE(values.finish().ok()) << "an expected matrix was never read";
  }
}

TEST(QuantisedCheckpoint, the_plan_is_what_loading_allocates) {
  for (const Expected& set : expected_sets()) {
    const ModelConfig config = read_model_config(fixture(set.name)).value();
    Checkpoint checkpoint = Checkpoint::open(fixture(set.name), config.quantization).value();
    CountingBackend backend;
    ASSERT_TRUE(load_weights(&backend, config, &checkpoint, nullptr).ok());
    const WeightBytes planned =
        measure_weights(*device_traits("cpu"), config, {}, &checkpoint).value();
    EXPECT_EQ(planned.decoder + planned.vision, backend.bytes) << set.name;
  }
}

TEST(QuantisedCheckpoint, groups_that_a_device_has_no_kernel_for_are_refused_by_the_plan) {
  const ModelConfig config = read_model_config(fixture("gptq-v1")).value();
  Checkpoint checkpoint = Checkpoint::open(fixture("gptq-v1"), config.quantization).value();
  DeviceTraits traits = device_traits("cuda:0").value();
  EXPECT_TRUE(measure_weights(traits, config, {}, &checkpoint).ok());
  traits.group_multiple = 5;
  const absl::Status refused = measure_weights(traits, config, {}, &checkpoint).status();
  EXPECT_EQ(error_reason(refused), "CHECKPOINT_QUANT_GROUP");
  EXPECT_THAT(refused.message(), HasSubstr("tensor 'model.layers.0."));
  EXPECT_THAT(refused.message(), HasSubstr("a multiple of 5 inputs on this device, got 16"));
}

TEST(QuantisedCheckpoint, loaded_weights_are_described_by_what_they_became) {
  const auto backend = make_backend("cpu", 1).value();
  for (const auto& [set, description] :
       {std::pair("native", "decoder int4, vision int8/int4, lm_head int8, else bf16"),
        std::pair("bitsandbytes-nf4", "decoder codebook4, vision codebook4, else bf16"),
        std::pair("autoround", "decoder int4, else bf16")}) {
    const ModelConfig config = read_model_config(fixture(set)).value();
    Checkpoint checkpoint = Checkpoint::open(fixture(set), config.quantization).value();
    const auto weights = load_weights(backend.get(), config, &checkpoint, nullptr);
    ASSERT_TRUE(weights.ok()) << weights.status();
    EXPECT_EQ(describe_weights(*weights), description) << set;
  }
}

TEST(QuantisedCheckpoint, a_dense_one_is_described_too) {
  const TemporaryDirectory directory;
  directory.write("model.safetensors", safetensors_file(tensors_of(tiny_config())));
  Checkpoint checkpoint = Checkpoint::open(directory.path()).value();
  Requirements requirements(&checkpoint);
  const auto stopped = load_weights(nullptr, tiny_config(), &requirements, nullptr);
  EXPECT_TRUE(absl::IsCancelled(stopped.status())) << stopped.status();
  // Two layers of two experts and of the tower, the adapter, the head and the patch convolution.
  EXPECT_EQ(checkpoint.description(), "dense: 34 matrices");
}

TEST(QuantisedCheckpoint, matrices_are_found_in_the_order_of_their_codes) {
  Opened opened("gptq-v1");
  std::map<int64_t, std::string> names;
  for (const auto& [name, stored] : opened.tensors) {
    EXPECT_TRUE(names.emplace(stored.order, name).second) << "two tensors at one place";
  }
  EXPECT_EQ(names.size(), opened.tensors.size());
}

TEST(QuantisedCheckpoint, a_dense_matrix_beside_quantised_ones_is_read_as_it_is) {
  Opened opened("autoround");
  const StoredTensor& stored = opened.tensors.at("lm_head.weight");
  const auto weight = opened.checkpoint.read_weight(stored);
  ASSERT_TRUE(weight.ok()) << weight.status();
  EXPECT_EQ(weight->format, WeightFormat::kDense);
  EXPECT_EQ(weight->dtype, DType::kBF16);
  EXPECT_EQ(weight->out_features, opened.config.vocab);
}

// A copy of a fixture with another quantization_config.
absl::Status open_labelled(const std::string& name, QuantizationConfig label) {
  const ModelConfig config = read_model_config(fixture(name)).value();
  Checkpoint checkpoint = Checkpoint::open(fixture(name), label).value();
  Requirements requirements(&checkpoint);
  return load_weights(nullptr, config, &requirements, nullptr).status();
}

TEST(QuantisedCheckpoint, a_label_of_another_layout_is_refused_by_both_names) {
  const QuantizationConfig gptq{.method = QuantMethod::kGptq, .name = "gptq", .group_size = 16};
  const QuantizationConfig none;
  for (const auto& [set, label, layout] :
       {std::tuple("native", gptq, "cogserve"), std::tuple("native", none, "cogserve"),
        std::tuple("bitsandbytes-nf4", gptq, "bitsandbytes"),
        std::tuple("bitsandbytes-fp4", none, "bitsandbytes"), std::tuple("gptq-v1", none, "gptq"),
        std::tuple("autoround", none, "gptq")}) {
    const absl::Status status = open_labelled(set, label);
    EXPECT_EQ(error_reason(status), "CHECKPOINT_QUANT_LABEL") << set;
    EXPECT_THAT(status.message(), HasSubstr("model.safetensors: tensor 'model.layers.0."));
    EXPECT_THAT(status.message(), HasSubstr("expected quant_method " +
                                            (label.name.empty() ? "none" : "'" + label.name + "'") +
                                            " as in config.json, got the layout of " + layout));
  }
}

TEST(QuantisedCheckpoint, a_label_without_quantised_matrices_is_refused) {
  const TemporaryDirectory directory;
  directory.write("model.safetensors", safetensors_file(tensors_of(tiny_config())));
  const QuantizationConfig label{.method = QuantMethod::kBitsandbytes, .name = "bitsandbytes"};
  Checkpoint checkpoint = Checkpoint::open(directory.path(), label).value();
  Requirements requirements(&checkpoint);
  const absl::Status status = load_weights(nullptr, tiny_config(), &requirements, nullptr).status();
  EXPECT_EQ(error_reason(status), "CHECKPOINT_QUANT_LABEL");
  // A plan says so too.
  const DeviceTraits traits = device_traits("cpu").value();
  EXPECT_EQ(measure_weights(traits, tiny_config(), {}, &checkpoint).status(), status);
  EXPECT_THAT(status.message(),
              HasSubstr("quant_method 'bitsandbytes' as in config.json, got none"));
}

TEST(QuantisedCheckpoint, a_file_that_shrinks_is_refused_before_it_is_touched) {
  const TemporaryDirectory directory;
  for (const std::string file : {"/config.json", "/model.safetensors"}) {
    std::filesystem::copy_file(fixture("bitsandbytes-nf4") + file, directory.path() + file);
  }
  const ModelConfig config = read_model_config(directory.path()).value();
  Checkpoint checkpoint = Checkpoint::open(directory.path(), config.quantization).value();
  Requirements requirements(&checkpoint);
  (void)load_weights(nullptr, config, &requirements, nullptr);
  std::filesystem::resize_file(directory.path() + "/model.safetensors", 100);
  for (const auto& [name, stored] : requirements.tensors) {
    if (stored.format == WeightFormat::kDense) continue;
    EXPECT_EQ(error_reason(checkpoint.read_weight(stored).status()), "CHECKPOINT_TRUNCATED");
    EXPECT_EQ(error_reason(checkpoint.require_weight(name, stored.shape).status()),
              "CHECKPOINT_TRUNCATED");
  }
}

}  // namespace
}  // namespace cogserve
