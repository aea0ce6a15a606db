// The weights of CogVLM2, and the only place that knows what its tensors are called.
//
// Loaded once at start-up into the backend's memory; then owned by Decoder and VisionTower.
// Dense weights keep the dtype that the checkpoint stores them in.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/backend/backend.hpp"
#include "engine/backend/device_traits.hpp"
#include "engine/base/check.hpp"
#include "engine/config.hpp"
#include "engine/model/linear.hpp"
#include "engine/model/weight_source.hpp"

namespace cogserve {

// What a LayerNorm or, without a bias, an RMSNorm multiplies and adds: f32 [1, n].
struct Norm {
  Parameter weight;
  Parameter bias;
};

// silu(gate x) * (up x), then down. None has a bias.
struct GatedMlp {
  Linear gate;  // [intermediate, hidden]
  Linear up;    // [intermediate, hidden]
  Linear down;  // [hidden, intermediate]
};

// y = silu(gate x) * (up x). No rows is no work.
inline void apply_gate(Backend* backend, const GatedMlp& mlp, const Tensor& x,
                       const Tensor& scratch, const Tensor& y) {
  if (x.rows == 0) return;
  check(mlp.gate.bias.tensor.data == nullptr && mlp.up.bias.tensor.data == nullptr,
        "a gate has no bias");
  backend->gated_linear(x, mlp.gate.weight, mlp.up.weight, scratch, y);
}

struct ExpertWeights {
  Linear qkv;    // [qkv_width, hidden], rows q, k, v; only the vision expert has a bias
  Linear dense;  // [hidden, hidden]
  GatedMlp mlp;
};

struct DecoderLayerWeights {
  Norm input_norm;
  Norm post_attention_norm;
  ExpertWeights language;
  ExpertWeights vision;
};

struct DecoderWeights {
  Parameter embedding;  // [vocab, hidden]
  std::vector<DecoderLayerWeights> layers;
  Norm norm;
  Linear head;  // [vocab, hidden]
};

struct VisionLayerWeights {
  Linear qkv;    // [3 * hidden, hidden]
  Linear dense;  // [hidden, hidden]
  Norm attention_norm;
  Linear fc1;  // [intermediate, hidden]
  Linear fc2;  // [hidden, intermediate]
  Norm mlp_norm;
};

// `hidden` is the tower's own up to `merge` and the decoder's from `projection` on.
struct VisionWeights {
  Linear patch;         // [hidden, 3 * patch^2]: the convolution as a matrix
  Parameter class_row;  // [1, hidden]
  Parameter positions;  // [rows, hidden]
  std::vector<VisionLayerWeights> layers;
  Linear merge;       // [hidden, 4 * hidden], columns in the order of Backend::merge_2x2
  Linear projection;  // [hidden, tower's hidden]
  Norm projection_norm;
  GatedMlp mlp;   // of the adapter
  Parameter boi;  // [1, hidden]
  Parameter eoi;  // [1, hidden]
};

struct ModelWeights {
  DecoderWeights decoder;
  VisionWeights vision;
};

// Bytes stored so far, and in all; called after each tensor.
using LoadProgress = std::function<void(int64_t done, int64_t total)>;

// How dense matrices are quantised on the way.
struct Quantization {
  WeightFormats formats;
  int threads = 0;  // 0 = one for each core
};

// Every tensor of the model and no other, or an error that names the one at fault. Nothing is read
// before all names and shapes have been checked; then tensors are read in file order, and quantised
// one at a time; what the checkpoint has quantised stays so.
absl::StatusOr<ModelWeights> load_weights(Backend* backend, const ModelConfig& config,
                                          WeightSource* source, const LoadProgress& progress,
                                          const Quantization& quantization = {});

// "bf16", or "decoder int4, vision int8/int4, else bf16" where some or all matrices of a part are
// quantised.
std::string describe_weights(const ModelWeights& weights);

struct WeightBytes {
  int64_t decoder = 0;
  int64_t vision = 0;
  DType stored = DType::kF32;  // what the embedding, which is never quantised, is stored in
};

// The most that load_weights allocates on a device. Requires every tensor, reads none; the errors
// are those of WeightSource, and INVALID_ARGUMENT CHECKPOINT_QUANT_GROUP for groups that the device
// has no kernel for.
absl::StatusOr<WeightBytes> measure_weights(const DeviceTraits& traits, const ModelConfig& config,
                                            const WeightFormats& formats, WeightSource* source);

// A tensor of the published layout.
struct ModelTensor {
  std::string name;
  std::vector<int64_t> shape;
  WeightFormat format;  // that it is quantised to, or kDense
};
std::vector<ModelTensor> list_tensors(const ModelConfig& config, const WeightFormats& formats);

}  // namespace cogserve
