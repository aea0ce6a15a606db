#include "engine/model/decoder.hpp"

#include <cmath>
#include <utility>

#include "engine/base/check.hpp"

namespace cogserve {

Decoder::Activations Decoder::Activations::first_rows(int rows) const {
  Activations a = *this;
  for (Tensor* tensor : {&a.x, &a.h, &a.qkv, &a.attention, &a.gate, &a.up}) {
    *tensor = tensor->slice_rows(0, rows);
  }
  return a;
}

Decoder::Activations Decoder::lay_out(Workspace* workspace, const ModelConfig& config,
                                      DType activation, int max_rows, int max_logit_rows) {
  const auto rows_of = [&](int cols) { return workspace->take(activation, max_rows, cols); };
  Activations a;
  a.x = rows_of(config.hidden);
  a.h = rows_of(config.hidden);
  a.qkv = rows_of(config.qkv_width());
  a.attention = rows_of(config.hidden);
  a.gate = rows_of(config.intermediate);
  a.up = rows_of(config.intermediate);
  a.last = workspace->take(activation, max_logit_rows, config.hidden);
  a.last_norm = workspace->take(activation, max_logit_rows, config.hidden);
  a.logits = workspace->take(DType::kF32, max_logit_rows, config.vocab);
  return a;
}

size_t Decoder::workspace_bytes(const ModelConfig& config, DType activation, int max_rows,
                                int max_logit_rows) {
  Workspace workspace;
  lay_out(&workspace, config, activation, max_rows, max_logit_rows);
  return workspace.bytes() + rope_table_bytes(config);
}

absl::StatusOr<Decoder> Decoder::create(Backend* backend, const ModelConfig& config,
                                        DecoderWeights weights, int max_rows, int max_logit_rows,
                                        RopeDtype rope_dtype) {
  Decoder decoder;
  decoder.backend_ = backend;
  decoder.config_ = config;
  decoder.rope_dtype_ = resolve_rope_dtype(rope_dtype, weights.embedding.tensor.dtype);
  decoder.weights_ = std::move(weights);
  absl::StatusOr<RopeStorage> rope = make_rope_table(backend, config, decoder.rope_dtype_);
  if (!rope.ok()) return rope.status();
  decoder.rope_ = std::move(*rope);

  const DType activation = backend->activation_dtype();
  Workspace size;
  lay_out(&size, config, activation, max_rows, max_logit_rows);
  absl::StatusOr<Buffer> memory = backend->allocate(size.bytes());
  if (!memory.ok()) return memory.status();
  decoder.memory_ = std::move(*memory);
  Workspace workspace(decoder.memory_.data());
  decoder.activations_ = lay_out(&workspace, config, activation, max_rows, max_logit_rows);
  return decoder;
}

Tensor Decoder::forward(const Batch& batch, std::span<const KvLayer> kv) {
  check(batch.rows() > 0 && batch.rows() <= activations_.x.rows, "a step has 1 to max_rows rows");
  check(static_cast<int64_t>(batch.logit_rows.size()) <= activations_.logits.rows,
        "a step has at most max_logit_rows logit rows");
  check(batch.vision_rows >= 0 && batch.vision_rows <= batch.rows(), "vision rows are rows");
  check(kv.size() == weights_.layers.size(), "there is one KV layer per decoder layer");
  const Activations a = activations_.first_rows(batch.rows());
  const Tensor logits = a.logits.slice_rows(0, static_cast<int64_t>(batch.logit_rows.size()));
  backend_->run_pass(input_of(batch, kv), [&] {
    embed(batch, a.x);
    const std::vector<DecoderLayerWeights>& layers = weights_.layers;
    backend_->rms_norm(a.x, layers.front().input_norm.weight.tensor, config_.rms_norm_eps, a.h);
    for (size_t i = 0; i < layers.size(); ++i) {
      const bool last = i + 1 == layers.size();
      run_layer(layers[i], last ? nullptr : &layers[i + 1].input_norm.weight, kv[i], batch, a);
    }
    compute_logits(batch, a, logits);
  });
  return logits;
}

PassInput Decoder::input_of(const Batch& batch, std::span<const KvLayer> kv) {
  if (decode_pass_ == 0 || decode_cache_ != kv.front().keys) {
    decode_pass_ = backend_->new_pass();
    decode_cache_ = kv.front().keys;
  }
  return {.token_ids = batch.token_ids,
          .positions = batch.positions,
          .slots = batch.slots,
          .logit_rows = batch.logit_rows,
          .runs = batch.runs,
          .block_tables = batch.block_tables,
          .heads = config_.heads,
          .kv_heads = config_.kv_heads,
          .head_dim = config_.head_dim(),
          .recurring = batch.decodes() ? decode_pass_ : 0};
}

void Decoder::embed(const Batch& batch, const Tensor& x) {
  backend_->embed(weights_.embedding.tensor, batch.token_ids, x);
  for (const ImageRows& image : batch.image_rows) {
    backend_->copy(image.features.slice_rows(image.feature_row, image.count),
                   x.slice_rows(image.row, image.count));
  }
}

void Decoder::run_layer(const DecoderLayerWeights& layer, const Parameter* next_norm,
                        const KvLayer& kv, const Batch& batch, const Activations& a) {
  const ExpertWeights& vision = layer.vision;
  const ExpertWeights& language = layer.language;
  const int split = batch.vision_rows;
  const float eps = config_.rms_norm_eps;
  const float scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim()));
  const Tensor q = a.qkv.slice_cols(0, config_.hidden);

  expert_linear(a.h, vision.qkv, language.qkv, split, a.qkv);
  backend_->rope_and_store_kv(a.qkv, config_.heads, batch.positions, batch.slots, rope_.table, kv);
  backend_->paged_attention(q, config_.heads, batch.runs, batch.block_tables, kv, scale,
                            a.attention);
  expert_linear(a.attention, vision.dense, language.dense, split, a.h);
  backend_->add_rms_norm(a.h, layer.post_attention_norm.weight.tensor, eps, a.x, a.h);

  const auto gate = [&](const GatedMlp& mlp, int first, int rows) {
    apply_gate(backend_, mlp, a.h.slice_rows(first, rows), a.up.slice_rows(first, rows),
               a.gate.slice_rows(first, rows));
  };
  gate(vision.mlp, 0, split);
  gate(language.mlp, split, batch.rows() - split);
  expert_linear(a.gate, vision.mlp.down, language.mlp.down, split, a.h);
  if (next_norm == nullptr) {
    backend_->add(a.h, a.x);
  } else {
    backend_->add_rms_norm(a.h, next_norm->tensor, eps, a.x, a.h);
  }
}

void Decoder::compute_logits(const Batch& batch, const Activations& a, const Tensor& logits) {
  if (logits.rows == 0) return;
  const Tensor last = a.last.slice_rows(0, logits.rows);
  const Tensor normed = a.last_norm.slice_rows(0, logits.rows);
  backend_->gather_rows(a.x, batch.logit_rows, last);
  backend_->rms_norm(last, weights_.norm.weight.tensor, config_.rms_norm_eps, normed);
  apply(backend_, weights_.head, normed, logits);
}

void Decoder::expert_linear(const Tensor& x, const Linear& vision, const Linear& language,
                            int vision_rows, const Tensor& y) {
  const int64_t language_rows = x.rows - vision_rows;
  apply(backend_, vision, x.slice_rows(0, vision_rows), y.slice_rows(0, vision_rows));
  apply(backend_, language, x.slice_rows(vision_rows, language_rows),
        y.slice_rows(vision_rows, language_rows));
}

}  // namespace cogserve
