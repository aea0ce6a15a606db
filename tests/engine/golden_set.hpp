// Golden sets (see tests/reference/make_golden.py) and a model that runs them step by step.
//
// The repository's own sets lie in tests/data/golden; every folder below $COGSERVE_GOLDEN_DIR, if
// that is set, is a further one.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <ostream>
#include <span>
#include <string>
#include <vector>

#include "engine/backend/backend.hpp"
#include "engine/config.hpp"
#include "engine/model/decoder.hpp"
#include "engine/model/vision_tower.hpp"

namespace cogserve {

struct GoldenCase {
  std::string name;
  RopeDtype rope = RopeDtype::kF32;
  std::vector<int32_t> ids;
  std::vector<bool> is_image;
  std::vector<int32_t> positions;
  std::vector<bool> is_vision;      // the expert of each token
  std::vector<int32_t> logit_rows;  // tokens whose logits are recorded
  std::vector<int32_t> greedy;
  std::vector<float> pixels;    // empty without a picture
  std::vector<float> features;  // [image tokens, hidden]
  std::vector<float> logits;    // [logit_rows, vocab]
};

struct GoldenSet {
  std::string name;
  std::string directory;
  std::vector<GoldenCase> cases;
};

// Throws std::runtime_error if a set cannot be read.
std::vector<GoldenSet> read_golden_sets();
// For gtest's messages.
std::ostream& operator<<(std::ostream& out, const GoldenSet& set);

// A prompt and what was generated, ready to be fed.
struct GoldenSequence {
  std::vector<int32_t> ids;
  std::vector<bool> is_image;
  std::vector<int32_t> positions;
  std::vector<bool> is_vision;
  Tensor features;  // in the backend's memory; null without a picture
  std::vector<int32_t> block_table;

  // Appends a generated token: language, one position further than the last.
  void append(int32_t id);
};

// Tokens [begin, begin + count) of a sequence as part of one step.
struct GoldenChunk {
  const GoldenSequence* sequence;
  int begin;
  int count;
};

class GoldenModel {
 public:
  static constexpr int kMaxRows = 640;
  static constexpr int kNumBlocks = 192;
  static constexpr int kBlockSize = 16;

  // Throws std::runtime_error if there is no such device or the checkpoint does not load.
  GoldenModel(const std::string& directory, RopeDtype rope, const std::string& device);

  const ModelConfig& config() const { return config_; }
  Backend& backend() { return *backend_; }

  // The dtype that the checkpoint's matrices are stored in.
  DType stored_dtype() const { return stored_dtype_; }

  // Every slot of the cache becomes NaN.
  void poison_cache();

  // [image tokens, hidden] on the host, `layers_per_slice` layers at a time.
  std::vector<float> encode(std::span<const float> pixels, int layers_per_slice);

  // The case's prompt over blocks `first_block`, `first_block + stride`, ... (modulo kNumBlocks);
  // room for `extra` generated tokens. Its picture is encoded here, the first time.
  GoldenSequence make_sequence(const GoldenCase& golden, int first_block, int stride, int extra);

  // One forward pass. The logits of every row of every chunk, [vocab] each, in the chunks' order.
  std::vector<std::vector<float>> step(std::span<const GoldenChunk> chunks);

  // The logits of all tokens, fed `chunk` at a time.
  std::vector<std::vector<float>> run(const GoldenSequence& sequence, int chunk);

 private:
  Batch build(std::span<const GoldenChunk> chunks, std::vector<int>* row_of_token) const;

  ModelConfig config_;
  std::unique_ptr<Backend> backend_;
  DType stored_dtype_ = DType::kF32;
  std::unique_ptr<Decoder> decoder_;
  std::unique_ptr<VisionTower> tower_;
  std::vector<Buffer> kv_buffers_;
  std::vector<KvLayer> kv_;
  std::vector<Buffer> features_;
  std::map<std::string, Tensor> pictures_;  // features by case
};

// The root of the mean square.
double rms(std::span<const float> values);

// Largest absolute difference; infinity if the sizes differ.
double max_error(std::span<const float> a, std::span<const float> b);

int argmax(std::span<const float> logits);

}  // namespace cogserve
