#include "engine/model/vision_tower.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/base/check.hpp"

namespace cogserve {
namespace {

// Rows that go through an MLP together: [9217, 15360] never exists.
constexpr int64_t kChunkRows = 1024;
// The adapter's LayerNorm is PyTorch's default one, whatever the tower's epsilon.
constexpr float kAdapterEps = 1e-5f;

// Calls `body(first, count)` for consecutive chunks of `rows` rows.
template <typename Body>
void for_each_chunk(int64_t rows, Body body) {
  for (int64_t first = 0; first < rows; first += kChunkRows) {
    body(first, std::min(kChunkRows, rows - first));
  }
}

}  // namespace

VisionTower::Activations VisionTower::lay_out(Workspace* workspace, const ModelConfig& config,
                                              DType activation) {
  const VisionConfig& tower = config.vision;
  const int64_t rows = tower.rows();
  const int64_t patches = rows - 1;
  const int64_t cells = patches / 4;
  const auto take = [&](int64_t row_count, int64_t cols) {
    return workspace->take(activation, row_count, cols);
  };
  Activations a;
  a.positions = take(rows, tower.hidden);
  a.x = take(rows, tower.hidden);

  const size_t shared = workspace->mark();
  a.pixels = workspace->take(DType::kF32, 3, int64_t{tower.image_size} * tower.image_size);
  a.patches = take(patches, int64_t{3} * tower.patch * tower.patch);

  workspace->rewind(shared);
  const int64_t row_chunk = std::min(rows, kChunkRows);
  a.qkv = take(rows, int64_t{3} * tower.hidden);
  a.attention = take(rows, tower.hidden);
  a.mlp = take(row_chunk, tower.intermediate);
  a.out = take(row_chunk, tower.hidden);

  workspace->rewind(shared);
  const int64_t cell_chunk = std::min(cells, kChunkRows);
  a.cells = take(cells, int64_t{4} * tower.hidden);
  a.merged = take(cell_chunk, tower.hidden);
  a.projected = take(cell_chunk, config.hidden);
  a.normed = take(cell_chunk, config.hidden);
  a.gate = take(cell_chunk, config.intermediate);
  a.up = take(cell_chunk, config.intermediate);
  return a;
}

size_t VisionTower::workspace_bytes(const ModelConfig& config, DType activation) {
  Workspace workspace;
  lay_out(&workspace, config, activation);
  return workspace.bytes();
}

size_t VisionTower::features_bytes(const ModelConfig& config, DType activation) {
  return static_cast<size_t>(config.vision.image_tokens()) * config.hidden * dtype_size(activation);
}

absl::StatusOr<VisionTower> VisionTower::create(Backend* backend, const ModelConfig& config,
                                                VisionWeights weights) {
  VisionTower tower;
  tower.backend_ = backend;
  tower.config_ = config.vision;
  tower.weights_ = std::move(weights);
  const DType activation = backend->activation_dtype();
  absl::StatusOr<Buffer> memory = backend->allocate(workspace_bytes(config, activation));
  if (!memory.ok()) return memory.status();
  tower.memory_ = std::move(*memory);
  Workspace workspace(tower.memory_.data());
  tower.activations_ = lay_out(&workspace, config, activation);
  // `add` takes activations only, so the table is converted here; its original is not needed again.
  backend->copy(tower.weights_.positions.tensor, tower.activations_.positions);
  backend->synchronize();
  tower.weights_.positions = Parameter();
  return tower;
}

void VisionTower::start(std::span<const float> pixels) {
  const Activations& a = activations_;
  const int64_t patches = a.patches.rows;
  check(static_cast<int64_t>(pixels.size()) == a.pixels.rows * a.pixels.cols,
        "a picture has 3 * image_size^2 values");
  backend_->upload(pixels.data(), a.pixels);
  backend_->extract_patches(a.pixels, config_.image_size, config_.patch, a.patches);
  backend_->copy(weights_.class_row.tensor, a.x.slice_rows(0, 1));
  apply(backend_, weights_.patch, a.patches, a.x.slice_rows(1, patches));
  backend_->add(a.positions, a.x);
}

void VisionTower::run_layers(int begin, int count) {
  check(begin >= 0 && count >= 0 && begin + count <= config_.layers, "the tower has these layers");
  for (int i = begin; i < begin + count; ++i) run_layer(weights_.layers[i]);
}

// Post-norm: what a block puts out is normalised, then added to its input.
void VisionTower::run_layer(const VisionLayerWeights& layer) {
  const Activations& a = activations_;
  const float eps = config_.layer_norm_eps;
  const float scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim()));

  apply(backend_, layer.qkv, a.x, a.qkv);
  backend_->dense_attention(a.qkv, config_.heads, config_.head_dim(), scale, a.attention);
  for_each_chunk(a.x.rows, [&](int64_t first, int64_t count) {
    const Tensor x = a.x.slice_rows(first, count);
    const Tensor mlp = a.mlp.slice_rows(0, count);
    const Tensor out = a.out.slice_rows(0, count);
    const Norm& attention_norm = layer.attention_norm;
    apply(backend_, layer.dense, a.attention.slice_rows(first, count), out);
    backend_->add_layer_norm(out, attention_norm.weight.tensor, attention_norm.bias.tensor, eps, x);

    const Norm& mlp_norm = layer.mlp_norm;
    apply(backend_, layer.fc1, x, mlp);
    backend_->gelu(mlp);
    apply(backend_, layer.fc2, mlp, out);
    backend_->add_layer_norm(out, mlp_norm.weight.tensor, mlp_norm.bias.tensor, eps, x);
  });
}

void VisionTower::finish(const Tensor& features) {
  const Activations& a = activations_;
  const int64_t patches = a.x.rows - 1;
  const int64_t cells = a.cells.rows;
  check(features.rows == cells + 2, "features have a row per image token");
  backend_->merge_2x2(a.x.slice_rows(1, patches), config_.grid(), a.cells);
  backend_->copy(weights_.boi.tensor, features.slice_rows(0, 1));
  for_each_chunk(cells, [&](int64_t first, int64_t count) {
    adapt(a.cells.slice_rows(first, count), features.slice_rows(1 + first, count));
  });
  backend_->copy(weights_.eoi.tensor, features.slice_rows(1 + cells, 1));
}

void VisionTower::adapt(const Tensor& cells, const Tensor& features) {
  const Activations& a = activations_;
  const Tensor merged = a.merged.slice_rows(0, cells.rows);
  const Tensor projected = a.projected.slice_rows(0, cells.rows);
  const Tensor normed = a.normed.slice_rows(0, cells.rows);
  const Tensor gate = a.gate.slice_rows(0, cells.rows);
  const Tensor up = a.up.slice_rows(0, cells.rows);
  const Norm& norm = weights_.projection_norm;

  apply(backend_, weights_.merge, cells, merged);
  apply(backend_, weights_.projection, merged, projected);
  backend_->layer_norm(projected, norm.weight.tensor, norm.bias.tensor, kAdapterEps, normed);
  backend_->gelu(normed);
  apply_gate(backend_, weights_.mlp, normed, up, gate);
  apply(backend_, weights_.mlp.down, gate, features);
}

}  // namespace cogserve
