// The CUDA backend: every operation of Backend on one GPU of compute capability 8.0 or later.
//
// Activations and the KV cache are bf16 (or f16), sums are f32. Weights are kept in the
// activations' dtype: a checkpoint of another dtype is converted while it loads. Owned by the
// engine, used by the engine thread alone; calls return before the work is done, which is ordered
// on one stream of its own. This class checks shapes (a wrong one throws InvariantError), brings
// host arrays to the device and hands on to the kernels, one file for each family. A device fault
// throws CudaError.
//
// Determinism: there are no float atomics, and within a kernel every row is computed by itself in
// one order of reductions. Which kernel computes a row does depend on company: `linear` takes
// another one above 8 rows (and by classes of row numbers, see matmul_key), and a run of a single
// row is attended to in splits (see attention_plan).
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "engine/backend/backend.hpp"
#include "engine/backend/cuda/attention_plan.hpp"
#include "engine/backend/cuda/device_memory.hpp"
#include "engine/backend/cuda/matmul.hpp"
#include "engine/backend/cuda/paged_attention.hpp"
#include "engine/backend/cuda/sampling.hpp"
#include "engine/backend/cuda/staging.hpp"

namespace cogserve {

class CudaBackend final : public Backend {
 public:
  // `device` is "cuda:<n>", `activation` bf16 or f16. INVALID_ARGUMENT / UNKNOWN_DEVICE for another
  // name or number, FAILED_PRECONDITION / DEVICE for a GPU that is too old or does not work.
  static absl::StatusOr<std::unique_ptr<CudaBackend>> create(std::string_view device,
                                                             DType activation = DType::kBF16);

  std::string description() const override { return description_; }
  DType activation_dtype() const override { return activation_; }
  DType kv_dtype() const override { return activation_; }

  int64_t available_memory() const override;
  absl::StatusOr<Buffer> allocate(size_t bytes) override;
  void upload(const void* host, const Tensor& dst) override;
  void download(const Tensor& src, void* host) override;
  void synchronize() override;

  absl::StatusOr<Weight> load_weight(const HostWeight& source) override;
  // Keeps the same values in the activations' dtype behind the f32 ones: cuBLASLt adds no other
  // bias.
  absl::StatusOr<Parameter> load_vector(const HostTensor& source) override;
  absl::StatusOr<Parameter> load_table(const HostTensor& source) override;
  size_t weight_bytes(const HostWeight& form) const override;
  size_t vector_bytes(int64_t n) const override;

  // A bias must be a vector of load_vector, whole.
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

  void sample(const Tensor& logits, std::span<const SampleRow> rows,
              std::span<SampledToken> sampled) override;

 private:
  static constexpr size_t kAttentionScratchBytes = size_t{32} << 20;
  static constexpr size_t kSampleRows = 64;   // of one launch
  static constexpr size_t kChangedRows = 32;  // of those: with penalties or bans

  CudaBackend(int ordinal, DType activation, std::string description);

  bool is_activation(const Tensor& tensor) const { return tensor.dtype == activation_; }
  // The current device is a property of a thread: makes ours the caller's.
  void bind_thread();
  // Until the stream has done all that it was given.
  void wait();
  // Device memory that is not zeroed, as a Buffer.
  absl::StatusOr<Buffer> allocate_raw(size_t bytes);
  void write(void* to, const void* host, size_t bytes);
  cuda::PagedKv view(const KvLayer& kv) const;
  void attend_on_tensor_cores(cuda::PagedAttention attention,
                              std::span<const int32_t> block_tables);
  // As many of the first rows as one launch takes.
  size_t rows_of_a_launch(std::span<const SampleRow> rows) const;
  void sample_some(const Tensor& logits, std::span<const SampleRow> rows,
                   std::span<SampledToken> sampled);

  int ordinal_;
  DType activation_;
  std::string description_;
  std::thread::id bound_;
  cuda::Stream stream_;
  cuda::Staging staging_;
  cuda::Matmul matmul_;
  cuda::DeviceMemory attention_scratch_;
  cuda::DeviceMemory results_;  // [kSampleRows] SampleResult
  cuda::PinnedMemory host_results_;
  cuda::DeviceMemory changed_logits_;  // made when a penalty or a ban first needs it
  cuda::DeviceMemory token_counts_;
  int64_t changed_vocab_ = 0;

  // Kept from call to call, so that a steady state allocates nothing.
  cuda::Parcel index_parcel_;
  cuda::Parcel rope_parcel_;
  cuda::Parcel attention_parcel_;
  cuda::Parcel sample_parcel_;
  std::vector<cuda::PlannedRun> runs_;
  cuda::AttentionPlan plan_;
  std::vector<cuda::SingleRow> single_rows_;
  std::vector<cuda::SampleTask> tasks_;
  std::vector<int32_t> sample_ids_;
};

}  // namespace cogserve
