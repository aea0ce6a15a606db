// The CUDA backend: every operation of Backend on one GPU of compute capability 8.0 or later.
//
// Activations and the KV cache are bf16 (or f16), sums are f32. Dense weights are kept in the
// activations' dtype: a checkpoint of another dtype is converted while it loads. Quantised ones
// stay so, and are unpacked for products with many rows. Owned by the engine, used by the engine
// thread alone; calls return before the work is done, which is ordered on one stream of its own.
// This class checks shapes (a wrong one throws InvariantError), brings host arrays to the device
// and hands on to the kernels, one file for each family. A device fault throws CudaError.
//
// Determinism: there are no float atomics, and within a kernel every row is computed by itself in
// one order of reductions. Which kernel computes a row does depend on company: `linear` takes
// another one above 8 rows, above 64 of quantised weights (and by classes of row numbers, see
// matmul_key), and a run of a single row is attended to in splits (see attention_plan).
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "engine/backend/backend.hpp"
#include "engine/backend/cuda/attention_arrays.hpp"
#include "engine/backend/cuda/device_memory.hpp"
#include "engine/backend/cuda/matmul.hpp"
#include "engine/backend/cuda/pass_arrays.hpp"
#include "engine/backend/cuda/pass_graphs.hpp"
#include "engine/backend/cuda/sampler.hpp"
#include "engine/backend/cuda/staging.hpp"
#include "engine/backend/cuda/weight_memory.hpp"

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
  int64_t total_memory() const override;
  absl::StatusOr<Buffer> allocate(size_t bytes) override;
  void upload(const void* host, const Tensor& dst) override;
  void download(const Tensor& src, void* host) override;
  void synchronize() override;

  absl::Status reserve_weights(size_t bytes) override;
  absl::StatusOr<Weight> load_weight(const HostWeight& source) override;
  // Keeps the same values in the activations' dtype behind the f32 ones: cuBLASLt adds no other
  // bias.
  absl::StatusOr<Parameter> load_vector(const HostTensor& source) override;
  absl::StatusOr<Parameter> load_table(const HostTensor& source) override;

  // Brings `input` to the device in one transfer and plans attention once for all layers. Recurring
  // passes are recorded and repeated as CUDA graphs.
  int padded_rows(int rows) const override { return cuda::padded_rows(rows); }
  bool works_ahead() const override { return true; }
  void run_pass(const PassInput& input, absl::FunctionRef<void()> pass) override;

  // A bias must be a vector of load_vector, whole.
  void linear(const Tensor& x, const Weight& w, const Tensor* bias, const Tensor& y) override;
  void gated_linear(const Tensor& x, const Weight& gate, const Weight& up, const Tensor& scratch,
                    const Tensor& y) override;

  void embed(const Tensor& table, std::span<const int32_t> ids, const Tensor& y) override;
  void gather_rows(const Tensor& x, std::span<const int32_t> rows, const Tensor& y) override;
  void copy(const Tensor& x, const Tensor& y) override;
  void add(const Tensor& x, const Tensor& y) override;

  void rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& y) override;
  void layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, float eps,
                  const Tensor& y) override;
  void add_rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& sum,
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
  CudaBackend(int ordinal, DType activation, int processors, std::string description);

  bool is_activation(const Tensor& tensor) const { return tensor.dtype == activation_; }
  struct MemoryInfo {
    size_t free = 0;
    size_t total = 0;
  };
  MemoryInfo memory_info() const;
  // The current device is a property of a thread: makes ours the caller's. Each time, since threads
  // come and go, and other backends have other devices.
  void bind_thread() const;
  // Until the stream has done all that it was given.
  void wait();
  // Device memory that is not zeroed, as a Buffer.
  absl::StatusOr<Buffer> allocate_raw(size_t bytes);
  // The same for a weight: of what was reserved, as long as that lasts.
  absl::StatusOr<Buffer> allocate_weight(size_t bytes);
  void write(void* to, const void* host, size_t bytes);
  void write_dense(const HostTensor& source, Weight* weight);
  void write_quantized(const HostWeight& source, Weight* weight);
  void multiply(const Tensor& x, const Tensor& matrix, const Tensor* bias, int64_t first,
                const Tensor& y);
  void quantized_linear(const Tensor& x, const Weight& w, const Tensor* bias, const Tensor& y);
  cuda::PagedKv view(const KvLayer& kv) const;
  // Records the pass, or says why not and runs it.
  void record_pass(int64_t rows, absl::FunctionRef<void()> pass);
  void check_repeated(const PassInput& input, const cuda::PassLimits& limits) const;
  void check_ids(std::span<const int32_t> ids, int64_t limit) const;
  // `parcel_` on the device. Not while a pass is recorded: a repetition would read what was sent
  // today.
  void check_not_recording() const;
  const std::byte* send();
  // `array` on the device: the pass's copy, or one that is sent now.
  const int32_t* on_device(std::span<const int32_t> array);

  int ordinal_;
  DType activation_;
  int processors_;
  std::string description_;
  cuda::Stream stream_;
  cuda::Staging staging_;
  cuda::Matmul matmul_;
  bool noticed_slow_products_ = false;
  bool noticed_small_groups_ = false;
  cuda::DeviceMemory unpacked_;  // kUnpackedBytes
  cuda::DeviceMemory attention_scratch_;
  cuda::Sampler sampler_;
  cuda::DeviceMemory pass_memory_;  // staging_.max_bytes(), the arrays of the pass
  cuda::WeightArena weights_;

  // Kept from call to call, so that a steady state allocates nothing.
  cuda::Parcel parcel_;
  cuda::PassArrays pass_;
  cuda::PassGraphs graphs_;
  cuda::AttentionArrays attention_;  // of an operation outside a pass
};

}  // namespace cogserve
