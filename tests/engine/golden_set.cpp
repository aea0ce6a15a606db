#include "tests/engine/golden_set.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <stdexcept>
#include <utility>

#include "engine/model/checkpoint.hpp"
#include "tests/engine/test_backend.hpp"

namespace cogserve {
namespace {

namespace fs = std::filesystem;

template <typename T>
T value_or_throw(absl::StatusOr<T> result) {
  if (!result.ok()) throw std::runtime_error(result.status().ToString());
  return *std::move(result);
}

std::string read_bytes(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error(path.string() + ": cannot be read");
  std::ostringstream content;
  content << in.rdbuf();
  return content.str();
}

// A little-endian float32 array in C order, format version 1; empty if there is no such file.
std::vector<float> read_npy(const fs::path& path) {
  if (!fs::exists(path)) return {};
  const std::string bytes = read_bytes(path);
  constexpr size_t kPreamble = 10;  // magic, version, length of the header
  if (bytes.size() < kPreamble || bytes.compare(0, 8, std::string("\x93NUMPY\x01\x00", 8)) != 0) {
    throw std::runtime_error(path.string() + ": not a .npy file of version 1");
  }
  const size_t header_size =
      static_cast<unsigned char>(bytes[8]) + 256u * static_cast<unsigned char>(bytes[9]);
  const std::string header = bytes.substr(kPreamble, header_size);
  const size_t begin = kPreamble + header_size;
  if (header.find("'<f4'") == std::string::npos ||
      header.find("'fortran_order': False") == std::string::npos || begin > bytes.size() ||
      (bytes.size() - begin) % sizeof(float) != 0) {
    throw std::runtime_error(path.string() + ": not a float32 array in C order");
  }
  std::vector<float> values((bytes.size() - begin) / sizeof(float));
  std::memcpy(values.data(), bytes.data() + begin, values.size() * sizeof(float));
  return values;
}

std::vector<bool> read_flags(const nlohmann::json& list) {
  std::vector<bool> flags;
  for (const auto& flag : list) flags.push_back(flag.get<int>() == 1);
  return flags;
}

GoldenCase read_case(const fs::path& directory, const std::string& name,
                     const nlohmann::json& entry) {
  GoldenCase golden;
  golden.name = name;
  golden.rope = entry.at("rope") == "bf16" ? RopeDtype::kBF16 : RopeDtype::kF32;
  golden.ids = entry.at("input_ids").get<std::vector<int32_t>>();
  golden.is_image = read_flags(entry.at("token_type_ids"));
  golden.positions = entry.at("position_ids").get<std::vector<int32_t>>();
  golden.is_vision = read_flags(entry.at("expert_mask"));
  golden.greedy = entry.at("greedy").get<std::vector<int32_t>>();
  if (entry.contains("logit_rows")) {
    golden.logit_rows = entry.at("logit_rows").get<std::vector<int32_t>>();
  } else {
    for (size_t i = 0; i < golden.ids.size(); ++i) golden.logit_rows.push_back(static_cast<int>(i));
  }
  golden.pixels = read_npy(directory / (name + ".pixels.npy"));
  golden.features = read_npy(directory / (name + ".features.npy"));
  golden.logits = read_npy(directory / (name + ".logits.npy"));
  return golden;
}

}  // namespace

std::vector<GoldenSet> read_golden_sets() {
  std::vector<fs::path> roots = {fs::path(COGSERVE_SOURCE_DIR) / "tests/data/golden"};
  if (const char* more = std::getenv("COGSERVE_GOLDEN_DIR")) roots.emplace_back(more);
  std::vector<GoldenSet> sets;
  for (const fs::path& root : roots) {
    if (!fs::exists(root)) continue;  // the program was taken to another machine
    std::set<fs::path> directories;   // sorted
    for (const auto& entry : fs::directory_iterator(root)) directories.insert(entry.path());
    for (const fs::path& directory : directories) {
      if (!fs::exists(directory / "cases.json")) continue;
      GoldenSet set{directory.filename().string(), directory.string(), {}};
      const auto cases = nlohmann::json::parse(read_bytes(directory / "cases.json"));
      for (const auto& [name, entry] : cases.items()) {
        set.cases.push_back(read_case(directory, name, entry));
      }
      sets.push_back(std::move(set));
    }
  }
  if (sets.empty()) throw std::runtime_error("there are no golden sets");
  return sets;
}

std::ostream& operator<<(std::ostream& out, const GoldenSet& set) { return out << set.directory; }

void GoldenSequence::append(int32_t id) {
  positions.push_back(positions.back() + 1);
  ids.push_back(id);
  is_image.push_back(false);
  is_vision.push_back(false);
}

GoldenModel::GoldenModel(const std::string& directory, RopeDtype rope, const std::string& device)
    : config_(value_or_throw(read_model_config(directory))),
      backend_(value_or_throw(make_test_backend(device, 2))) {
  Checkpoint checkpoint = value_or_throw(Checkpoint::open(directory));
  ModelWeights weights =
      value_or_throw(load_weights(backend_.get(), config_, &checkpoint, nullptr));
  stored_dtype_ = weights.decoder.embedding.tensor.dtype;
  decoder_ = std::make_unique<Decoder>(value_or_throw(Decoder::create(
      backend_.get(), config_, std::move(weights.decoder), kMaxRows, kMaxRows, rope)));
  tower_ = std::make_unique<VisionTower>(
      value_or_throw(VisionTower::create(backend_.get(), config_, std::move(weights.vision))));
  const DType dtype = backend_->kv_dtype();
  const size_t bytes =
      size_t{kNumBlocks} * kBlockSize * config_.kv_heads * config_.head_dim() * dtype_size(dtype);
  for (int layer = 0; layer < config_.layers; ++layer) {
    Buffer keys = value_or_throw(backend_->allocate(bytes));
    Buffer values = value_or_throw(backend_->allocate(bytes));
    kv_.push_back({keys.data(), values.data(), dtype, kNumBlocks, config_.kv_heads, kBlockSize,
                   config_.head_dim()});
    kv_buffers_.push_back(std::move(keys));
    kv_buffers_.push_back(std::move(values));
  }
}

void GoldenModel::poison_cache() {
  for (const KvLayer& layer : kv_) {
    const int64_t values = int64_t{layer.num_blocks} * layer.kv_heads * layer.block_size;
    const std::vector<unsigned char> nan(values * layer.head_dim * dtype_size(layer.dtype), 0xff);
    for (void* array : {layer.keys, layer.values}) {
      backend_->upload(nan.data(), Tensor::matrix(array, layer.dtype, values, layer.head_dim));
    }
  }
}

std::vector<float> GoldenModel::encode(std::span<const float> pixels, int layers_per_slice) {
  const int tokens = config_.vision.image_tokens();
  const DType dtype = backend_->activation_dtype();
  Buffer buffer =
      value_or_throw(backend_->allocate(size_t(tokens) * config_.hidden * dtype_size(dtype)));
  const Tensor features = Tensor::matrix(buffer.data(), dtype, tokens, config_.hidden);
  tower_->start(pixels);
  for (int layer = 0; layer < config_.vision.layers; layer += layers_per_slice) {
    tower_->run_layers(layer, std::min(layers_per_slice, config_.vision.layers - layer));
  }
  tower_->finish(features);
  features_.push_back(std::move(buffer));
  std::vector<float> host(size_t(tokens) * config_.hidden);
  const Buffer wide = value_or_throw(backend_->allocate(host.size() * sizeof(float)));
  const Tensor values = Tensor::matrix(wide.data(), DType::kF32, tokens, config_.hidden);
  backend_->copy(features, values);
  backend_->download(values, host.data());
  return host;
}

GoldenSequence GoldenModel::make_sequence(const GoldenCase& golden, int first_block, int stride,
                                          int extra) {
  GoldenSequence sequence{golden.ids,       golden.is_image, golden.positions,
                          golden.is_vision, Tensor(),        {}};
  const int tokens = static_cast<int>(golden.ids.size()) + extra;
  for (int i = 0; i * kBlockSize < tokens; ++i) {
    const int block = (first_block + i * stride) % kNumBlocks;
    sequence.block_table.push_back((block + kNumBlocks) % kNumBlocks);
  }
  if (golden.pixels.empty()) return sequence;
  Tensor& features = pictures_[golden.name];
  if (features.data == nullptr) {
    encode(golden.pixels, config_.vision.layers);
    features = Tensor::matrix(features_.back().data(), backend_->activation_dtype(),
                              config_.vision.image_tokens(), config_.hidden);
  }
  sequence.features = features;
  return sequence;
}

Batch GoldenModel::build(std::span<const GoldenChunk> chunks,
                         std::vector<int>* row_of_token) const {
  Batch batch;
  std::vector<int> table_begin;
  for (const GoldenChunk& chunk : chunks) {
    table_begin.push_back(static_cast<int>(batch.block_tables.size()));
    const auto& table = chunk.sequence->block_table;
    batch.block_tables.insert(batch.block_tables.end(), table.begin(), table.end());
  }
  std::vector<std::vector<int>> rows(chunks.size());
  for (size_t c = 0; c < chunks.size(); ++c) rows[c].resize(chunks[c].count);
  for (const bool vision : {true, false}) {
    for (size_t c = 0; c < chunks.size(); ++c) {
      const GoldenSequence& sequence = *chunks[c].sequence;
      for (int i = 0; i < chunks[c].count; ++i) {
        const int index = chunks[c].begin + i;
        if (sequence.is_vision[index] != vision) continue;
        const int row = rows[c][i] = batch.rows();
        if (sequence.is_image[index]) {
          const auto first_image =
              std::find(sequence.is_image.begin(), sequence.is_image.end(), true);
          const int feature = index - static_cast<int>(first_image - sequence.is_image.begin());
          batch.image_rows.push_back({sequence.features, feature, row, 1});
        }
        batch.token_ids.push_back(sequence.is_image[index] ? -1 : sequence.ids[index]);
        batch.positions.push_back(sequence.positions[index]);
        batch.slots.push_back(int64_t{sequence.block_table[index / kBlockSize]} * kBlockSize +
                              index % kBlockSize);
        const bool follows = i > 0 && rows[c][i - 1] == row - 1 && !batch.runs.empty() &&
                             sequence.is_vision[index - 1] == vision;
        if (follows) {
          ++batch.runs.back().row_count;
        } else {
          batch.runs.push_back({row, 1, index, table_begin[c]});
        }
      }
    }
    if (vision) batch.vision_rows = batch.rows();
  }
  for (const auto& chunk_rows : rows) {
    row_of_token->insert(row_of_token->end(), chunk_rows.begin(), chunk_rows.end());
  }
  batch.logit_rows = {row_of_token->begin(), row_of_token->end()};
  return batch;
}

std::vector<std::vector<float>> GoldenModel::step(std::span<const GoldenChunk> chunks) {
  std::vector<int> row_of_token;
  const Batch batch = build(chunks, &row_of_token);
  const Tensor logits = decoder_->forward(batch, kv_);
  std::vector<float> host(logits.rows * logits.cols);
  backend_->download(logits, host.data());
  std::vector<std::vector<float>> result;
  for (int64_t row = 0; row < logits.rows; ++row) {
    result.emplace_back(host.begin() + row * logits.cols, host.begin() + (row + 1) * logits.cols);
  }
  return result;
}

std::vector<std::vector<float>> GoldenModel::run(const GoldenSequence& sequence, int chunk) {
  std::vector<std::vector<float>> all;
  const int tokens = static_cast<int>(sequence.ids.size());
  for (int begin = 0; begin < tokens; begin += chunk) {
    const GoldenChunk part{&sequence, begin, std::min(chunk, tokens - begin)};
    for (auto& row : step({&part, 1})) all.push_back(std::move(row));
  }
  return all;
}

double rms(std::span<const float> values) {
  double sum = 0;
  for (const float value : values) sum += double{value} * value;
  return std::sqrt(sum / static_cast<double>(values.size()));
}

double max_error(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double error = std::abs(double{a[i]} - double{b[i]});
    // A NaN on either side is the worst error of all.
    worst = error <= worst      ? worst
            : std::isnan(error) ? std::numeric_limits<double>::infinity()
                                : error;
  }
  return worst;
}

int argmax(std::span<const float> logits) {
  return static_cast<int>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

}  // namespace cogserve
