#include "engine/model/vision_tower.hpp"

#include <gtest/gtest.h>

#include "engine/base/check.hpp"
#include "engine/model/dummy_weights.hpp"

namespace cogserve {
namespace {

// Large enough for several chunks of rows: 48 * 48 + 1 = 2305.
ModelConfig small_config() {
  ModelConfig config;
  config.layers = 1;
  config.hidden = 16;
  config.heads = 2;
  config.kv_heads = 1;
  config.intermediate = 24;
  config.vocab = 20;
  config.max_positions = 64;
  config.vision = {
      .layers = 3, .hidden = 12, .heads = 3, .intermediate = 20, .patch = 2, .image_size = 96};
  return config;
}

class VisionTowerTest : public testing::Test {
 protected:
  VisionTowerTest() : config_(small_config()), backend_(make_backend("cpu", 2).value()) {
    DummyWeights source(5, DType::kF32);
    ModelWeights weights = load_weights(backend_.get(), config_, &source, nullptr).value();
    boi_ = row_of(weights.vision.boi);
    eoi_ = row_of(weights.vision.eoi);
    tower_ = std::make_unique<VisionTower>(
        VisionTower::create(backend_.get(), config_, std::move(weights.vision)).value());
    memory_ =
        backend_->allocate(size_t{4} * config_.vision.image_tokens() * config_.hidden).value();
    features_ =
        Tensor::matrix(memory_.data(), DType::kF32, config_.vision.image_tokens(), config_.hidden);
  }

  std::vector<float> row_of(const Parameter& parameter) {
    std::vector<float> values(parameter.tensor.cols);
    backend_->download(parameter.tensor, values.data());
    return values;
  }

  std::vector<float> picture(float scale) const {
    std::vector<float> pixels(3 * 96 * 96);
    for (size_t i = 0; i < pixels.size(); ++i) {
      pixels[i] = scale * (static_cast<float>(i * 2654435761u % 1000) / 500.0f - 1.0f);
    }
    return pixels;
  }

  std::vector<float> finish() {
    tower_->finish(features_);
    std::vector<float> values(features_.rows * features_.cols);
    backend_->download(features_, values.data());
    return values;
  }

  std::vector<float> encode(std::span<const float> pixels) {
    tower_->start(pixels);
    tower_->run_layers(0, config_.vision.layers);
    return finish();
  }

  ModelConfig config_;
  std::unique_ptr<Backend> backend_;
  std::vector<float> boi_;
  std::vector<float> eoi_;
  std::unique_ptr<VisionTower> tower_;
  Buffer memory_;
  Tensor features_;
};

TEST_F(VisionTowerTest, slices_of_layers_give_the_whole) {
  const auto whole = encode(picture(1.0f));
  tower_->start(picture(1.0f));
  tower_->run_layers(0, 1);
  tower_->run_layers(1, 0);
  tower_->run_layers(1, 2);
  EXPECT_EQ(finish(), whole);
}

TEST_F(VisionTowerTest, a_picture_leaves_nothing_behind_for_the_next) {
  const auto first = encode(picture(1.0f));
  const auto other = encode(picture(-0.5f));
  EXPECT_NE(other, first);
  EXPECT_EQ(encode(picture(1.0f)), first);
}

TEST_F(VisionTowerTest, features_begin_with_boi_and_end_with_eoi) {
  const auto features = encode(picture(1.0f));
  const auto hidden = config_.hidden;
  EXPECT_EQ(std::vector<float>(features.begin(), features.begin() + hidden), boi_);
  EXPECT_EQ(std::vector<float>(features.end() - hidden, features.end()), eoi_);
}

TEST_F(VisionTowerTest, misuse_is_a_broken_invariant) {
  EXPECT_THROW(tower_->start(std::vector<float>(3 * 96 * 96 - 1)), InvariantError);
  tower_->start(picture(1.0f));
  EXPECT_THROW(tower_->run_layers(-1, 1), InvariantError);
  EXPECT_THROW(tower_->run_layers(0, 4), InvariantError);
  EXPECT_THROW(tower_->finish(features_.slice_rows(0, 3)), InvariantError);
}

}  // namespace
}  // namespace cogserve
