// EVA2-CLIP-E, the 2x2 merge and the adapter: a picture's pixels in, image tokens out.
//
// Resumable between layers, so that a new picture does not freeze running streams: start, then
// run_layers in slices, then finish. One picture at a time. Owned by ModelRunner, engine thread.
#pragma once

#include <span>

#include "absl/status/statusor.h"
#include "engine/backend/backend.hpp"
#include "engine/config.hpp"
#include "engine/model/weights.hpp"
#include "engine/model/workspace.hpp"

namespace cogserve {

class VisionTower {
 public:
  // The workspace is allocated here, once.
  static absl::StatusOr<VisionTower> create(Backend* backend, const ModelConfig& config,
                                            VisionWeights weights);

  // What create() allocates beside the weights, in bytes.
  static size_t workspace_bytes(const ModelConfig& config, DType activation);
  // One picture's features, in bytes.
  static size_t features_bytes(const ModelConfig& config, DType activation);

  // pixels: [3, S, S] normalised f32 on the host. Patches and position embeddings.
  void start(std::span<const float> pixels);
  void run_layers(int begin, int count);
  // Merge, adapter, boi and eoi -> features [image_tokens, hidden].
  void finish(const Tensor& features);

 private:
  // `x` lives from start to finish; the three groups below it never live together and share memory.
  struct Activations {
    Tensor positions;  // [rows, tower's hidden], filled once
    Tensor x;          // [rows, tower's hidden]

    Tensor pixels;   // [3, S * S], f32
    Tensor patches;  // [grid^2, 3 * patch^2]

    Tensor qkv;        // [rows, 3 * tower's hidden]
    Tensor attention;  // [rows, tower's hidden]
    Tensor mlp;        // [chunk, tower's intermediate]
    Tensor out;        // [chunk, tower's hidden]

    Tensor cells;      // [(grid / 2)^2, 4 * tower's hidden]
    Tensor merged;     // [chunk, tower's hidden]
    Tensor projected;  // [chunk, hidden]
    Tensor normed;     // [chunk, hidden]
    Tensor gate;       // [chunk, intermediate]
    Tensor up;         // [chunk, intermediate]
  };

  VisionTower() = default;

  static Activations lay_out(Workspace* workspace, const ModelConfig& config, DType activation);

  void run_layer(const VisionLayerWeights& layer);
  // Rows of `cells` -> as many rows of features.
  void adapt(const Tensor& cells, const Tensor& features);

  Backend* backend_ = nullptr;
  VisionConfig config_;
  VisionWeights weights_;
  Buffer memory_;
  Activations activations_;
};

}  // namespace cogserve
