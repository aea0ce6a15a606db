// A small decoder with its cache on a backend, and the batches of a few sequences, for tests of
// whole passes on the CUDA backend.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "engine/model/decoder.hpp"
#include "engine/model/dummy_weights.hpp"
#include "tests/engine/cuda_test_tools.hpp"
#include "tests/engine/forwarding_backend.hpp"

namespace cogserve::testing {

// Small, for the emulator's sake; a group of heads of the tensor core kernels' smallest size.
inline ModelConfig pass_config() {
  ModelConfig config;
  config.layers = 2;
  config.hidden = 64;
  config.heads = 2;
  config.kv_heads = 1;
  config.intermediate = 32;
  config.vocab = 20;
  config.max_positions = 400;
  config.vision = {
      .layers = 1, .hidden = 12, .heads = 2, .intermediate = 20, .patch = 2, .image_size = 8};
  return config;
}

class PassModel {
 public:
  static constexpr int kSequences = 8;
  static constexpr int kBlockSize = 16;
  static constexpr int kTableBlocks = 10;  // of each sequence
  static constexpr int kSpareBlock = kSequences * kTableBlocks;
  static constexpr int kMaxRows = 40;

  explicit PassModel(Backend& backend) : backend_(&backend), config_(pass_config()) {
    DummyWeights source(1, DType::kBF16);
    ModelWeights weights = load_weights(&backend, config_, &source, nullptr).value();
    decoder_ =
        std::make_unique<Decoder>(Decoder::create(&backend, config_, std::move(weights.decoder),
                                                  kMaxRows, 16, RopeDtype::kAuto)
                                      .value());
    fill_cache();
  }

  const ModelConfig& config() const { return config_; }

  // A token of a sequence: any id will do, as long as it is the same for everybody who asks.
  static int32_t token(int sequence, int index) { return (sequence * 17 + index * 5 + 3) % 20; }

  // Tokens [begin, begin + count) of one sequence; the last one wants logits.
  static Batch chunk(int sequence, int begin, int count) {
    Batch batch;
    add_run(sequence, begin, count, &batch);
    batch.logit_rows = {count - 1};
    return batch;
  }

  // Token `indices[s]` of each sequence s, padded to `rows`.
  static Batch decode(std::span<const int> indices, int rows) {
    Batch batch;
    for (size_t s = 0; s < indices.size(); ++s) add_run(static_cast<int>(s), indices[s], 1, &batch);
    const auto table_begin = static_cast<int>(batch.block_tables.size());
    batch.block_tables.push_back(kSpareBlock);
    const int first_padding = batch.rows();
    while (batch.rows() < rows) {
      batch.slots.push_back(batch.rows() == first_padding ? int64_t{kSpareBlock} * kBlockSize
                                                          : kNoSlot);
      batch.runs.push_back({batch.rows(), 1, 0, table_begin});
      batch.positions.push_back(0);
      batch.token_ids.push_back(0);  // last: rows() counts these
    }
    for (int row = 0; row < batch.rows(); ++row) batch.logit_rows.push_back(row);
    return batch;
  }

  Tensor forward(const Batch& batch) { return decoder_->forward(batch, kv_); }

  // The first `rows` rows of logits, row after row.
  std::vector<float> logits(const Batch& batch, int rows) {
    const Tensor all = forward(batch).slice_rows(0, rows);
    std::vector<float> host(all.rows * all.cols);
    backend_->download(all, host.data());
    return host;
  }

 private:
  // Every slot holds the key and value of a past token, the same numbers on every backend; those of
  // the spare block too.
  void fill_cache() {
    const int blocks = kSpareBlock + 1;
    const DType dtype = backend_->kv_dtype();
    const int64_t rows = int64_t{blocks} * config_.kv_heads * kBlockSize;
    for (int i = 0; i < 2 * config_.layers; ++i) {
      const Matrix values = Matrix::random(rows, config_.head_dim(), 10 + i);
      buffers_.push_back(backend_->allocate(rows * config_.head_dim() * dtype_size(dtype)).value());
      const Tensor cache = Tensor::matrix(buffers_.back().data(), dtype, rows, config_.head_dim());
      std::vector<float> wide;
      std::vector<uint16_t> narrow;
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < values.cols(); ++c) {
          wide.push_back(to_float(to_bfloat16(values.at(r, c))));
          if (dtype != DType::kF32) narrow.push_back(bits_of(wide.back(), dtype));
        }
      }
      backend_->upload(dtype == DType::kF32 ? static_cast<const void*>(wide.data()) : narrow.data(),
                       cache);
    }
    for (int layer = 0; layer < config_.layers; ++layer) {
      kv_.push_back({buffers_[2 * layer].data(), buffers_[2 * layer + 1].data(), dtype, blocks,
                     config_.kv_heads, kBlockSize, config_.head_dim()});
    }
  }

  // Neither in order nor side by side.
  static int32_t block(int sequence, int i) {
    return (sequence * kTableBlocks + i) * 7 % kSpareBlock;
  }

  static void add_run(int sequence, int begin, int count, Batch* batch) {
    batch->runs.push_back(
        {batch->rows(), count, begin, static_cast<int>(batch->block_tables.size())});
    for (int i = 0; i * kBlockSize < begin + count; ++i) {
      batch->block_tables.push_back(block(sequence, i));
    }
    for (int index = begin; index < begin + count; ++index) {
      batch->token_ids.push_back(token(sequence, index));
      batch->positions.push_back(index);
      batch->slots.push_back(int64_t{block(sequence, index / kBlockSize)} * kBlockSize +
                             index % kBlockSize);
    }
  }

  Backend* backend_;
  ModelConfig config_;
  std::unique_ptr<Decoder> decoder_;
  std::vector<Buffer> buffers_;
  std::vector<KvLayer> kv_;
};

// Tests with a decoder whose passes run as passes, and one whose operations are called one by one:
// on the same backend, since another one may choose other algorithms for its matrix products.
class CudaPassTest : public CudaTest {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    // Passes that cannot be recorded give the same answers, kernel by kernel.
    backend().set_notice_log([](std::string_view what) { ADD_FAILURE() << what; });
    plain_backend_ = std::make_unique<ForwardingBackend>(&backend());
    model_ = std::make_unique<PassModel>(backend());
    plain_ = std::make_unique<PassModel>(*plain_backend_);
  }
  void TearDown() override {
    model_.reset();
    plain_.reset();
  }

  PassModel& model() { return *model_; }
  PassModel& plain() { return *plain_; }
  Backend& plain_backend() { return *plain_backend_; }

 private:
  std::unique_ptr<Backend> plain_backend_;
  std::unique_ptr<PassModel> model_;
  std::unique_ptr<PassModel> plain_;
};

}  // namespace cogserve::testing
