// The language side of CogVLM2: embedding, layers with two experts, norm and head.
//
// The model is written once against Backend. `expert_linear` is the whole visual expert: rows of
// a step are ordered vision first, so an expert layer is two `linear` calls on two row ranges.
// Owned by ModelRunner, engine thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "engine/backend/backend.hpp"
#include "engine/config.hpp"
#include "engine/model/batch.hpp"
#include "engine/model/rope_table.hpp"
#include "engine/model/weights.hpp"
#include "engine/model/workspace.hpp"

namespace cogserve {

class Decoder {
 public:
  // `max_rows`: most rows of a step; `max_logit_rows`: most of them that want logits. Workspace and
  // RoPE table are allocated here, once. `rope_dtype` kAuto goes by the dtype of the embedding.
  static absl::StatusOr<Decoder> create(Backend* backend, const ModelConfig& config,
                                        DecoderWeights weights, int max_rows, int max_logit_rows,
                                        RopeDtype rope_dtype);

  // What create() allocates beside the weights, in bytes.
  static size_t workspace_bytes(const ModelConfig& config, DType activation, int max_rows,
                                int max_logit_rows);

  // Writes the KV of every row and returns the logits of `batch.logit_rows`: [n, vocab] f32,
  // valid until the next call. `kv` holds one entry per layer.
  Tensor forward(const Batch& batch, std::span<const KvLayer> kv);

  // Most rows of a step whose rows all want logits.
  int max_decode_rows() const {
    return static_cast<int>(std::min(activations_.x.rows, activations_.logits.rows));
  }

  // kBF16 or kF32.
  RopeDtype rope_dtype() const { return rope_dtype_; }

 private:
  // Matrices of one step; `first_rows` narrows those that have a row per token.
  struct Activations {
    Tensor x;          // [rows, hidden], the residual stream
    Tensor h;          // [rows, hidden], what goes into and comes out of a block
    Tensor qkv;        // [rows, qkv_width]
    Tensor attention;  // [rows, hidden]
    Tensor gate;       // [rows, intermediate]
    Tensor up;         // [rows, intermediate]
    Tensor last;       // [logit rows, hidden]
    Tensor last_norm;  // [logit rows, hidden]
    Tensor logits;     // [logit rows, vocab], f32

    Activations first_rows(int rows) const;
  };

  Decoder() = default;

  static Activations lay_out(Workspace* workspace, const ModelConfig& config, DType activation,
                             int max_rows, int max_logit_rows);

  PassInput input_of(const Batch& batch, std::span<const KvLayer> kv);
  void embed(const Batch& batch, const Tensor& x);
  // From h, x normed for this layer, to x and, unless `next_norm` is null, h normed for the next.
  void run_layer(const DecoderLayerWeights& layer, const Parameter* next_norm, const KvLayer& kv,
                 const Batch& batch, const Activations& a);
  void compute_logits(const Batch& batch, const Activations& a, const Tensor& logits);
  // y[r, :] = W x[r, :] + b with the vision expert's W for rows before `vision_rows`, else the
  // language expert's.
  void expert_linear(const Tensor& x, const Linear& vision, const Linear& language, int vision_rows,
                     const Tensor& y);

  Backend* backend_ = nullptr;
  ModelConfig config_;
  DecoderWeights weights_;
  RopeDtype rope_dtype_ = RopeDtype::kF32;
  RopeStorage rope_;
  Buffer memory_;
  Activations activations_;
  // The number of recurring passes, and the cache that they go through.
  uint64_t decode_pass_ = 0;
  const void* decode_cache_ = nullptr;
};

}  // namespace cogserve
