#include "engine/model/decoder.hpp"

#include <gtest/gtest.h>

#include "engine/base/check.hpp"
#include "engine/model/dummy_weights.hpp"

namespace cogserve {
namespace {

ModelConfig small_config() {
  ModelConfig config;
  config.layers = 2;
  config.hidden = 24;
  config.heads = 6;
  config.kv_heads = 3;
  config.intermediate = 40;
  config.vocab = 50;
  config.max_positions = 64;
  config.vision = {
      .layers = 1, .hidden = 12, .heads = 2, .intermediate = 20, .patch = 2, .image_size = 8};
  return config;
}

constexpr int kMaxRows = 8;
constexpr int kMaxLogitRows = 3;

class DecoderTest : public testing::Test {
 protected:
  DecoderTest() : config_(small_config()), backend_(make_backend("cpu", 1).value()) {
    const size_t bytes =
        size_t{4} * 4 * config_.kv_heads * config_.head_dim() * dtype_size(backend_->kv_dtype());
    for (int layer = 0; layer < config_.layers; ++layer) {
      buffers_.push_back(backend_->allocate(bytes).value());
      buffers_.push_back(backend_->allocate(bytes).value());
      kv_.push_back({buffers_[2 * layer].data(), buffers_[2 * layer + 1].data(),
                     backend_->kv_dtype(), 4, config_.kv_heads, 4, config_.head_dim()});
    }
  }

  Decoder make(DType weights, RopeDtype rope) {
    DummyWeights source(1, weights);
    ModelWeights loaded = load_weights(backend_.get(), config_, &source, nullptr).value();
    return Decoder::create(backend_.get(), config_, std::move(loaded.decoder), kMaxRows,
                           kMaxLogitRows, rope)
        .value();
  }

  // Tokens 1, 2, 3 ... of one sequence in blocks 2 and 0; the first `vision_rows` are patches'
  // rows.
  Batch batch(int rows, int vision_rows, std::vector<int32_t> logit_rows) const {
    Batch batch;
    batch.vision_rows = vision_rows;
    for (int i = 0; i < rows; ++i) {
      batch.token_ids.push_back(i + 1);
      batch.positions.push_back(i);
      batch.slots.push_back((i < 4 ? 2 * 4 : 0) + i % 4);
    }
    batch.runs = {{0, rows, 0, 0}};
    batch.block_tables = {2, 0};
    batch.logit_rows = std::move(logit_rows);
    return batch;
  }

  std::vector<float> download(const Tensor& tensor) {
    std::vector<float> values(tensor.rows * tensor.cols);
    backend_->download(tensor, values.data());
    return values;
  }

  ModelConfig config_;
  std::unique_ptr<Backend> backend_;
  std::vector<Buffer> buffers_;
  std::vector<KvLayer> kv_;
};

TEST_F(DecoderTest, rope_auto_goes_by_the_embedding) {
  EXPECT_EQ(make(DType::kBF16, RopeDtype::kAuto).rope_dtype(), RopeDtype::kBF16);
  EXPECT_EQ(make(DType::kF32, RopeDtype::kAuto).rope_dtype(), RopeDtype::kF32);
  EXPECT_EQ(make(DType::kBF16, RopeDtype::kF32).rope_dtype(), RopeDtype::kF32);
}

TEST_F(DecoderTest, logits_come_in_the_order_asked_for) {
  Decoder decoder = make(DType::kBF16, RopeDtype::kAuto);
  const auto three = download(decoder.forward(batch(6, 0, {5, 0, 3}), kv_));
  ASSERT_EQ(three.size(), 3u * config_.vocab);
  const int rows[] = {5, 0, 3};
  for (int i = 0; i < 3; ++i) {
    const auto one = download(decoder.forward(batch(6, 0, {rows[i]}), kv_));
    EXPECT_EQ(one, std::vector<float>(three.begin() + i * config_.vocab,
                                      three.begin() + (i + 1) * config_.vocab));
  }
}

TEST_F(DecoderTest, a_step_may_want_no_logits_at_all) {
  Decoder decoder = make(DType::kBF16, RopeDtype::kAuto);
  EXPECT_EQ(decoder.forward(batch(4, 2, {}), kv_).rows, 0);
}

TEST_F(DecoderTest, each_row_goes_through_its_own_expert) {
  Decoder decoder = make(DType::kBF16, RopeDtype::kAuto);
  const auto language = download(decoder.forward(batch(3, 0, {0, 2}), kv_));
  const auto mixed = download(decoder.forward(batch(3, 1, {0, 2}), kv_));
  const auto vision = download(decoder.forward(batch(3, 3, {0, 2}), kv_));
  const auto row = [&](const std::vector<float>& logits, int i) {
    return std::vector<float>(logits.begin() + i * config_.vocab,
                              logits.begin() + (i + 1) * config_.vocab);
  };
  // Token 0 sees itself alone: only its own expert matters to it.
  EXPECT_EQ(row(mixed, 0), row(vision, 0));
  EXPECT_NE(row(mixed, 0), row(language, 0));
  EXPECT_NE(row(mixed, 1), row(vision, 1));
  EXPECT_NE(row(mixed, 1), row(language, 1));
}

TEST_F(DecoderTest, image_rows_take_their_features) {
  Decoder decoder = make(DType::kBF16, RopeDtype::kAuto);
  const Buffer memory = backend_->allocate(size_t{4} * 4 * config_.hidden).value();
  const Tensor features = Tensor::matrix(memory.data(), DType::kF32, 4, config_.hidden);
  std::vector<float> values(4 * config_.hidden);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 13) - 6.0f;
  backend_->upload(values.data(), features);

  // Rows 1 and 2 are features 2 and 3; the same features one by one give the same.
  Batch together = batch(4, 4, {3});
  together.token_ids[1] = together.token_ids[2] = -1;
  together.image_rows = {{features, 2, 1, 2}};
  Batch apart = together;
  apart.image_rows = {{features, 3, 2, 1}, {features, 2, 1, 1}};
  Batch swapped = together;
  swapped.image_rows = {{features, 2, 2, 1}, {features, 3, 1, 1}};
  const auto expected = download(decoder.forward(together, kv_));
  EXPECT_EQ(download(decoder.forward(apart, kv_)), expected);
  EXPECT_NE(download(decoder.forward(swapped, kv_)), expected);
}

TEST_F(DecoderTest, a_step_beyond_its_bounds_is_a_broken_invariant) {
  Decoder decoder = make(DType::kBF16, RopeDtype::kAuto);
  EXPECT_THROW(decoder.forward(Batch(), kv_), InvariantError);
  EXPECT_THROW(decoder.forward(batch(kMaxRows + 1, 0, {}), kv_), InvariantError);
  EXPECT_THROW(decoder.forward(batch(4, 0, {0, 1, 2, 3}), kv_), InvariantError);
  EXPECT_THROW(decoder.forward(batch(4, 5, {}), kv_), InvariantError);
  EXPECT_THROW(decoder.forward(batch(4, 0, {}), std::span(kv_).first(1)), InvariantError);
}

}  // namespace
}  // namespace cogserve
