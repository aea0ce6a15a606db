// The operations that a model's forward pass is made of.
//
// One Backend owns one device. It is used by the engine thread alone; calls may return before the
// work is done (`synchronize` waits), and are executed in the order they were made. Tensors
// passed in live in memory of the same backend and must not overlap unless it says "in place".
// Shapes are the caller's promise: a wrong one is a broken invariant, not a user's error.
//
// Determinism: every operation computes each output row from its own input row (and, for
// attention, its own KV indices in ascending order), and an implementation has one fixed order of
// reductions. The CPU backend has one implementation of each, so a row's bits do not depend on what
// else is in the batch. The CUDA backend goes by the number of rows, so there they may.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/backend/sampling.hpp"
#include "engine/backend/weight.hpp"
#include "engine/base/buffer.hpp"
#include "engine/base/pulse.hpp"
#include "engine/base/tensor.hpp"

namespace cogserve {

// One decoder layer's paged cache. K and V are each
// [num_blocks, kv_heads, block_size, head_dim], contiguous; token i of a sequence lives in block
// block_table[i / block_size] at offset i % block_size.
struct KvLayer {
  void* keys = nullptr;
  void* values = nullptr;
  DType dtype = DType::kF32;
  int num_blocks = 0;
  int kv_heads = 0;
  int block_size = 0;
  int head_dim = 0;
};

// The slot of a row whose key and value are kept nowhere.
inline constexpr int64_t kNoSlot = -1;

// Consecutive rows of one step that are consecutive tokens of one sequence.
// Row `row_begin + i` is token `first_index + i` and attends to tokens 0 .. first_index + i.
struct AttentionRun {
  int row_begin = 0;
  int row_count = 0;
  int first_index = 0;
  int table_begin = 0;  // where the sequence's block table starts in the step's `block_tables`
};

// What a pass of the decoder takes from the host: the arrays that its operations are given, whole
// or in part, and the shape of its attention. Alive and unchanged until run_pass returns.
struct PassInput {
  std::span<const int32_t> token_ids;   // [rows]
  std::span<const int32_t> positions;   // [rows]
  std::span<const int64_t> slots;       // [rows]
  std::span<const int32_t> logit_rows;  // [logit rows]
  std::span<const AttentionRun> runs;
  std::span<const int32_t> block_tables;
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  // Not 0 (see new_pass): all passes with this number and the same number of rows make the same
  // calls with the same tensors, every run is one row, and every row wants logits, in order.
  uint64_t recurring = 0;
};

// Cosine and sine for every position, each [max_position, head_dim / 2] f32.
struct RopeTable {
  Tensor cos;
  Tensor sin;
};

class Backend {
 public:
  virtual ~Backend() = default;

  // "cpu (avx2, 2 threads)": for the start-up banner.
  virtual std::string description() const = 0;
  // The dtype of activations: f32 on the CPU.
  virtual DType activation_dtype() const = 0;
  // The dtype that KV cache elements are stored in.
  virtual DType kv_dtype() const = 0;

  // Called on the engine thread with what makes passes slower than they should be, not wrong: for
  // the log.
  using NoticeLog = std::function<void(std::string_view what)>;
  void set_notice_log(NoticeLog log) { notice_log_ = std::move(log); }

  // Beats whenever an operation that takes long is known to be done. May be read by any thread.
  Pulse& pulse() { return pulse_; }

  // --- memory ------------------------------------------------------------------------------
  // Bytes that can be allocated now.
  virtual int64_t available_memory() const = 0;
  // Bytes that the device has in all.
  virtual int64_t total_memory() const = 0;
  // Zeroed, aligned to at least 64 bytes. RESOURCE_EXHAUSTED with reason MEMORY if it is not
  // to be had.
  virtual absl::StatusOr<Buffer> allocate(size_t bytes) = 0;
  // Contiguous host array of dst's dtype and shape -> dst, and back. Both wait.
  virtual void upload(const void* host, const Tensor& dst) = 0;
  virtual void download(const Tensor& src, void* host) = 0;
  virtual void synchronize() = 0;

  // --- weights (while loading) ---------------------------------------------------------------
  // Before loading, once: so many bytes are what the calls below will take in all, as
  // measure_weights counts them. A backend may take them in one piece. RESOURCE_EXHAUSTED with
  // reason MEMORY if they are not to be had.
  virtual absl::Status reserve_weights(size_t /*bytes*/) { return absl::OkStatus(); }
  // W [out, in] -> Weight. `source` may go away afterwards.
  virtual absl::StatusOr<Weight> load_weight(const HostWeight& source) = 0;
  // Norm weights and biases, as f32 [1, n].
  virtual absl::StatusOr<Parameter> load_vector(const HostTensor& source) = 0;
  // Rows that are looked up, in the source's dtype: [rows, cols].
  virtual absl::StatusOr<Parameter> load_table(const HostTensor& source) = 0;

  // --- a pass --------------------------------------------------------------------------------
  // Calls `pass`, whose operations may be given arrays of `input`. A backend with a memory of its
  // own brings them there once, before the operations, instead of in each of them.
  // `pass` is not called where a recurring pass can be repeated without it.
  virtual void run_pass(const PassInput& /*input*/, absl::FunctionRef<void()> pass) { pass(); }
  // A number for recurring passes that nobody had before.
  uint64_t new_pass() { return ++passes_; }
  // How many rows, at least `rows`, a pass of `rows` decode rows is best padded to, so that few
  // different passes recur.
  virtual int padded_rows(int rows) const { return rows; }
  // Whether work goes on while the host does something else, so that it pays to give it the next
  // step before the tokens of the last one are known.
  virtual bool works_ahead() const { return false; }

  // --- linear algebra ------------------------------------------------------------------------
  // y[r, :] = W x[r, :] (+ bias). x [rows, in], y [rows, out]; bias [1, out] or null.
  virtual void linear(const Tensor& x, const Weight& w, const Tensor* bias, const Tensor& y) = 0;
  // y = silu(gate x) * (up x), both products rounded to the activations' dtype. x [rows, in], y
  // [rows, out]; `scratch` is of y's shape and dtype and may hold anything afterwards.
  virtual void gated_linear(const Tensor& x, const Weight& gate, const Weight& up,
                            const Tensor& scratch, const Tensor& y) {
    linear(x, gate, nullptr, y);
    linear(x, up, nullptr, scratch);
    silu_mul(y, scratch, y);
  }

  // --- rows ----------------------------------------------------------------------------------
  // y[r, :] = table[ids[r], :]; kNoToken leaves its row untouched (image rows), and
  // `drawn_token(i)` stands for the token of row i of the newest start_sampling, which the host
  // need not know yet.
  virtual void embed(const Tensor& table, std::span<const int32_t> ids, const Tensor& y) = 0;
  // y[r, :] = x[rows[r], :]
  virtual void gather_rows(const Tensor& x, std::span<const int32_t> rows, const Tensor& y) = 0;
  // y = x, same shape; the dtypes may differ (f32, bf16 or f16 to f32).
  virtual void copy(const Tensor& x, const Tensor& y) = 0;
  // y += x
  virtual void add(const Tensor& x, const Tensor& y) = 0;

  // --- norms, all statistics in f32 ----------------------------------------------------------
  // y = x / sqrt(mean(x^2) + eps) * weight
  virtual void rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& y) = 0;
  // sum += x, rounded to the activations' dtype, and y = rms_norm(sum): the residual before a block
  // of the decoder. y may be x.
  virtual void add_rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& sum,
                            const Tensor& y) {
    add(x, sum);
    rms_norm(sum, weight, eps, y);
  }
  // y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias
  virtual void layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, float eps,
                          const Tensor& y) = 0;
  // y += layer_norm(x): the post-norm residual of the vision tower.
  virtual void add_layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, float eps,
                              const Tensor& y) = 0;

  // --- activations ---------------------------------------------------------------------------
  // y = silu(gate) * up; y may be gate or up.
  virtual void silu_mul(const Tensor& gate, const Tensor& up, const Tensor& y) = 0;
  // In place, exact (erf) GELU.
  virtual void gelu(const Tensor& x) = 0;

  // --- pictures ------------------------------------------------------------------------------
  // pixels [3, size * size] (CHW planes) -> patches [grid^2, 3 * patch^2], each in (channel, y, x)
  // order as a convolution kernel stores it; grid = size / patch, patches in raster order.
  virtual void extract_patches(const Tensor& pixels, int size, int patch, const Tensor& y) = 0;
  // x [grid^2, c] -> y [(grid / 2)^2, 4c]: rows (0,0), (0,1), (1,0), (1,1) of each 2x2 cell, side
  // by side.
  virtual void merge_2x2(const Tensor& x, int grid, const Tensor& y) = 0;

  // --- attention -----------------------------------------------------------------------------
  // qkv [rows, (heads + 2 * kv_heads) * head_dim] ordered q, k, v. Rotates q in place (half-split
  // form, positions[r]), rotates k and writes k and v of row r into slot slots[r]
  // (= block * block_size + offset), unless that is kNoSlot. No two rows have the same slot.
  virtual void rope_and_store_kv(const Tensor& qkv, int heads, std::span<const int32_t> positions,
                                 std::span<const int64_t> slots, const RopeTable& rope,
                                 const KvLayer& kv) = 0;
  // Causal grouped-head attention over the paged cache, of weights softmax(scale q k), scale > 0. q
  // [rows, heads * head_dim] (a column slice of qkv), y [rows, heads * head_dim].
  virtual void paged_attention(const Tensor& q, int heads, std::span<const AttentionRun> runs,
                               std::span<const int32_t> block_tables, const KvLayer& kv,
                               float scale, const Tensor& y) = 0;
  // Full (not causal) attention of one picture: qkv [rows, 3 * heads * head_dim], y [rows, heads *
  // head_dim]. The [rows, rows] score matrix is never stored.
  virtual void dense_attention(const Tensor& qkv, int heads, int head_dim, float scale,
                               const Tensor& y) = 0;

  // --- sampling ------------------------------------------------------------------------------
  // Draws a token for each row of logits [n, vocab] f32, one SampleRow per row; does not wait. At
  // most kMostDraws calls may be uncollected.
  virtual void start_sampling(const Tensor& logits, std::span<const SampleRow> rows) = 0;
  // The tokens of the oldest start_sampling that was not collected, one for each of its rows;
  // waits. A row with a NaN or no finite logit comes back with `finite` false and no token. If it
  // throws, those tokens are lost and count as collected.
  virtual void collect(std::span<SampledToken> sampled) = 0;

  static constexpr int kMostDraws = 2;

 protected:
  void notice(std::string_view what) const {
    if (notice_log_) notice_log_(what);
  }

 private:
  Pulse pulse_;
  NoticeLog notice_log_;
  uint64_t passes_ = 0;
};

// `device` is "cpu" or "cuda:<n>". Of the CPU alone: `threads` 0 = one for each core;
// `bf16_products`: activations are rounded to bf16 where a bf16 matrix is multiplied.
// INVALID_ARGUMENT for a device that this build does not know.
absl::StatusOr<std::unique_ptr<Backend>> make_backend(std::string_view device, int threads,
                                                      bool bf16_products = false);

}  // namespace cogserve
