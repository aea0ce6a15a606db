// The CPU backend: every operation of Backend in f32 (matrix products in bf16 where that is asked
// for), on all cores, done when the call returns.
//
// Owned by the engine, used by the engine thread alone; the threads of its pool work inside calls
// only. This class checks shapes (a wrong one throws InvariantError) and hands on to the kernels,
// one file for each family.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "engine/backend/backend.hpp"
#include "engine/backend/cpu/linear.hpp"
#include "engine/backend/cpu/sampling.hpp"
#include "engine/backend/cpu/thread_pool.hpp"
#include "engine/backend/cpu/workspace.hpp"

namespace cogserve {

namespace cpu {
// What load_weight and load_vector allocate; the arrays of `form` are not looked at.
size_t weight_bytes(const HostWeight& form);
size_t vector_bytes(int64_t n);
}  // namespace cpu

class CpuBackend final : public Backend {
 public:
  // `threads` 0 = one for each core.
  explicit CpuBackend(int threads, cpu::Products products = cpu::Products::kF32);

  std::string description() const override;
  DType activation_dtype() const override { return DType::kF32; }
  DType kv_dtype() const override { return DType::kF32; }

  int64_t available_memory() const override;
  int64_t total_memory() const override;
  absl::StatusOr<Buffer> allocate(size_t bytes) override;
  void upload(const void* host, const Tensor& dst) override;
  void download(const Tensor& src, void* host) override;
  void synchronize() override {}

  absl::StatusOr<Weight> load_weight(const HostWeight& source) override;
  absl::StatusOr<Parameter> load_vector(const HostTensor& source) override;
  absl::StatusOr<Parameter> load_table(const HostTensor& source) override;

  void linear(const Tensor& x, const Weight& w, const Tensor* bias, const Tensor& y) override;

  void embed(const Tensor& table, std::span<const int32_t> ids, const Tensor& y) override;
  void gather_rows(const Tensor& x, std::span<const int32_t> rows, const Tensor& y) override;
  void copy(const Tensor& x, const Tensor& y) override;
  void add(const Tensor& x, const Tensor& y) override;

  void rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& y) override;
  void layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, float eps,
                  const Tensor& y) override;
  void add_layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, float eps,
                      const Tensor& y) override;

  void silu_mul(const Tensor& gate, const Tensor& up, const Tensor& y) override;
  void gelu(const Tensor& x) override;

  void extract_patches(const Tensor& pixels, int size, int patch, const Tensor& y) override;
  void merge_2x2(const Tensor& x, int grid, const Tensor& y) override;

  void rope_and_store_kv(const Tensor& qkv, int heads, std::span<const int32_t> positions,
                         std::span<const int64_t> slots, const RopeTable& rope,
                         const KvLayer& kv) override;
  void paged_attention(const Tensor& q, int heads, std::span<const AttentionRun> runs,
                       std::span<const int32_t> block_tables, const KvLayer& kv, float scale,
                       const Tensor& y) override;
  void dense_attention(const Tensor& qkv, int heads, int head_dim, float scale,
                       const Tensor& y) override;

  void start_sampling(const Tensor& logits, std::span<const SampleRow> rows) override;
  void collect(std::span<SampledToken> sampled) override;

 private:
  const cpu::Products products_;
  cpu::ThreadPool pool_;
  cpu::Workspace workspace_;
  std::vector<cpu::SamplingScratch> sampling_;   // one for each worker
  std::deque<std::vector<SampledToken>> draws_;  // not collected yet
  std::vector<int32_t> drawn_ids_;               // of the newest draw
  std::vector<int32_t> ids_;                     // of an embed, drawn ones looked up
};

}  // namespace cogserve
