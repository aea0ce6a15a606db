// A Backend that hands every call on to another one and lets a test step in before each. Passes are
// not handed on: their operations are, one by one.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "engine/backend/backend.hpp"

namespace cogserve {

class ForwardingBackend : public Backend {
 public:
  // How the engine is to treat the CPU backend: as it is, or as a GPU's, which works ahead and
  // wants its decode passes padded.
  enum class Manner { kCpu, kGpu };

  explicit ForwardingBackend(Manner manner = Manner::kCpu)
      : ForwardingBackend(*make_backend("cpu", 1)) {
    manner_ = manner;
  }
  explicit ForwardingBackend(std::unique_ptr<Backend> to)
      : owned_(std::move(to)), to_(owned_.get()) {}
  // To one that outlives this.
  explicit ForwardingBackend(Backend* to) : to_(to) {}

  std::string description() const override { return to_->description(); }
  DType activation_dtype() const override { return to_->activation_dtype(); }
  DType kv_dtype() const override { return to_->kv_dtype(); }

  bool works_ahead() const override { return manner_ == Manner::kGpu; }
  int padded_rows(int rows) const override {
    return manner_ == Manner::kGpu ? (rows + 3) / 4 * 4 : rows;
  }

  int64_t available_memory() const override { return to_->available_memory(); }
  int64_t total_memory() const override { return to_->total_memory(); }
  absl::StatusOr<Buffer> allocate(size_t bytes) override { return to_->allocate(bytes); }
  void upload(const void* host, const Tensor& dst) override {
    before_operation();
    to_->upload(host, dst);
  }
  void download(const Tensor& src, void* host) override { to_->download(src, host); }
  void synchronize() override { to_->synchronize(); }

  absl::Status reserve_weights(size_t bytes) override { return to_->reserve_weights(bytes); }
  absl::StatusOr<Weight> load_weight(const HostWeight& source) override {
    return to_->load_weight(source);
  }
  absl::StatusOr<Parameter> load_vector(const HostTensor& source) override {
    return to_->load_vector(source);
  }
  absl::StatusOr<Parameter> load_table(const HostTensor& source) override {
    return to_->load_table(source);
  }

  void linear(const Tensor& x, const Weight& w, const Tensor* bias, const Tensor& y) override {
    before_operation();
    to_->linear(x, w, bias, y);
  }
  void gated_linear(const Tensor& x, const Weight& gate, const Weight& up, const Tensor& scratch,
                    const Tensor& y) override {
    before_operation();
    to_->gated_linear(x, gate, up, scratch, y);
  }
  void embed(const Tensor& table, std::span<const int32_t> ids, const Tensor& y) override {
    before_embed(ids);
    before_operation();
    to_->embed(table, ids, y);
  }
  void gather_rows(const Tensor& x, std::span<const int32_t> rows, const Tensor& y) override {
    before_operation();
    to_->gather_rows(x, rows, y);
  }
  void copy(const Tensor& x, const Tensor& y) override {
    before_operation();
    to_->copy(x, y);
  }
  void add(const Tensor& x, const Tensor& y) override {
    before_operation();
    to_->add(x, y);
  }
  void rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& y) override {
    before_operation();
    to_->rms_norm(x, weight, eps, y);
  }
  void add_rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& sum,
                    const Tensor& y) override {
    before_operation();
    to_->add_rms_norm(x, weight, eps, sum, y);
  }
  void layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, float eps,
                  const Tensor& y) override {
    before_tower_operation();
    to_->layer_norm(x, weight, bias, eps, y);
  }
  void add_layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, float eps,
                      const Tensor& y) override {
    before_tower_operation();
    to_->add_layer_norm(x, weight, bias, eps, y);
  }
  void silu_mul(const Tensor& gate, const Tensor& up, const Tensor& y) override {
    before_operation();
    to_->silu_mul(gate, up, y);
  }
  void gelu(const Tensor& x) override {
    before_tower_operation();
    to_->gelu(x);
  }
  void extract_patches(const Tensor& pixels, int size, int patch, const Tensor& y) override {
    before_picture(pixels);
    before_tower_operation();
    to_->extract_patches(pixels, size, patch, y);
  }
  void merge_2x2(const Tensor& x, int grid, const Tensor& y) override {
    before_tower_operation();
    to_->merge_2x2(x, grid, y);
  }
  void rope_and_store_kv(const Tensor& qkv, int heads, std::span<const int32_t> positions,
                         std::span<const int64_t> slots, const RopeTable& rope,
                         const KvLayer& kv) override {
    before_operation();
    to_->rope_and_store_kv(qkv, heads, positions, slots, rope, kv);
  }
  void paged_attention(const Tensor& q, int heads, std::span<const AttentionRun> runs,
                       std::span<const int32_t> block_tables, const KvLayer& kv, float scale,
                       const Tensor& y) override {
    before_operation();
    to_->paged_attention(q, heads, runs, block_tables, kv, scale, y);
  }
  void dense_attention(const Tensor& qkv, int heads, int head_dim, float scale,
                       const Tensor& y) override {
    before_tower_operation();
    to_->dense_attention(qkv, heads, head_dim, scale, y);
  }
  void start_sampling(const Tensor& logits, std::span<const SampleRow> rows) override {
    before_sample(rows);
    before_operation();
    to_->start_sampling(logits, rows);
  }
  void collect(std::span<SampledToken> sampled) override {
    before_collect();
    to_->collect(sampled);
  }

 protected:
  // Before every operation of a pass of the decoder (and those that the tower shares with it), or
  // of the tower alone; and before that, what tells whose pass it is.
  virtual void before_operation() {}
  virtual void before_tower_operation() {}
  virtual void before_embed(std::span<const int32_t> /*ids*/) {}
  virtual void before_picture(const Tensor& /*pixels*/) {}
  virtual void before_sample(std::span<const SampleRow> /*rows*/) {}
  virtual void before_collect() {}

 private:
  const std::unique_ptr<Backend> owned_;
  Backend* const to_;
  Manner manner_ = Manner::kCpu;
};

}  // namespace cogserve
