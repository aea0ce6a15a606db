#include "engine/backend/cpu/cpu_backend.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "engine/backend/cpu/attention.hpp"
#include "engine/backend/cpu/bf16_dot.hpp"
#include "engine/backend/cpu/codebook.hpp"
#include "engine/backend/cpu/elementwise.hpp"
#include "engine/backend/cpu/memory.hpp"
#include "engine/backend/cpu/norms.hpp"
#include "engine/backend/cpu/pictures.hpp"
#include "engine/backend/cpu/quantized_linear.hpp"
#include "engine/backend/cpu/rope.hpp"
#include "engine/backend/cpu/simd_name.hpp"
#include "engine/backend/shape_checks.hpp"
#include "engine/base/check.hpp"
#include "engine/base/error.hpp"

namespace cogserve {
namespace {

// Rows of a tensor against a packed host array.
template <typename CopyRow>
void for_each_row(const Tensor& tensor, const CopyRow& copy_row) {
  const size_t stride = tensor.row_stride * dtype_size(tensor.dtype);
  for (int64_t row = 0; row < tensor.rows; ++row) {
    copy_row(static_cast<std::byte*>(tensor.data) + row * stride, row * row_bytes(tensor));
  }
}

}  // namespace

CpuBackend::CpuBackend(int threads, cpu::Products products)
    : products_(products), pool_(threads), workspace_(pool_.size()), sampling_(pool_.size()) {}

std::string CpuBackend::description() const {
  std::string text = "cpu (" + cpu::simd_name() + ", " + std::to_string(pool_.size()) +
                     (pool_.size() == 1 ? " thread" : " threads");
  if (products_ == cpu::Products::kBF16) {
    text += cpu::has_bf16_dot() ? ", bf16 matrices times bf16"
                                : ", bf16 matrices times bf16 without instructions for it";
  }
  return text + ")";
}

int64_t CpuBackend::available_memory() const { return cpu::available_memory(); }

int64_t CpuBackend::total_memory() const { return cpu::total_memory(); }

absl::StatusOr<Buffer> CpuBackend::allocate(size_t bytes) {
  void* data = cpu::allocate_memory(bytes);
  if (data == nullptr) {
    return make_error(absl::StatusCode::kResourceExhausted, "MEMORY", "",
                      "no " + std::to_string(bytes) + " bytes of host memory to be had");
  }
  std::memset(data, 0, bytes);
  return Buffer(data, bytes, &std::free);
}

void CpuBackend::upload(const void* host, const Tensor& dst) {
  for_each_row(dst, [&](std::byte* row, size_t at) {
    std::memcpy(row, static_cast<const std::byte*>(host) + at, row_bytes(dst));
  });
}

void CpuBackend::download(const Tensor& src, void* host) {
  for_each_row(src, [&](const std::byte* row, size_t at) {
    std::memcpy(static_cast<std::byte*>(host) + at, row, row_bytes(src));
  });
}

absl::StatusOr<Weight> CpuBackend::load_weight(const HostWeight& source) {
  check(source.out_features > 0 && source.dtype != DType::kI32, "a weight is a matrix of floats");
  Weight weight;
  weight.format = source.format;
  weight.dtype = source.dtype;
  weight.out_features = source.out_features;
  weight.in_features = source.in_features;
  weight.group_size = source.group_size;
  weight.has_zeros = source.has_zeros;
  weight.scale_dtype = source.scale_dtype;
  absl::StatusOr<Buffer> storage = allocate(cpu::weight_bytes(source));
  if (!storage.ok()) return storage.status();
  weight.storage = *std::move(storage);
  switch (source.format) {
    case WeightFormat::kDense:
      cpu::pack_weight(source.dense.data, weight, products_, pool_);
      break;
    case WeightFormat::kInt8:
    case WeightFormat::kInt4:
      cpu::pack_quantized_weight(source, weight, pool_);
      break;
    case WeightFormat::kCodebook4:
      cpu::pack_codebook_weight(source, weight, pool_);
      break;
  }
  return weight;
}

size_t cpu::weight_bytes(const HostWeight& form) {
  switch (form.format) {
    case WeightFormat::kDense:
      return cpu::packed_weight_bytes(form.dtype, form.out_features, form.in_features);
    case WeightFormat::kInt8:
    case WeightFormat::kInt4:
      return cpu::quantized_weight_bytes(form);
    case WeightFormat::kCodebook4:
      return cpu::codebook_weight_bytes(form);
  }
  return 0;
}

size_t cpu::vector_bytes(int64_t n) { return n * sizeof(float); }

absl::StatusOr<Parameter> CpuBackend::load_vector(const HostTensor& source) {
  check(source.dtype != DType::kI32, "a parameter vector holds floats");
  const int64_t n = source.elements();
  absl::StatusOr<Buffer> storage = allocate(cpu::vector_bytes(n));
  if (!storage.ok()) return storage.status();
  Parameter parameter;
  parameter.storage = *std::move(storage);
  parameter.tensor = Tensor::matrix(parameter.storage.data(), DType::kF32, 1, n);
  float* values = parameter.tensor.row<float>(0);
  for (int64_t i = 0; i < n; ++i) values[i] = host_value(source, i);
  return parameter;
}

absl::StatusOr<Parameter> CpuBackend::load_table(const HostTensor& source) {
  check(!source.shape.empty() && source.shape[0] > 0, "a table has rows");
  const size_t bytes = source.elements() * dtype_size(source.dtype);
  absl::StatusOr<Buffer> storage = allocate(bytes);
  if (!storage.ok()) return storage.status();
  Parameter parameter;
  parameter.storage = *std::move(storage);
  parameter.tensor = Tensor::matrix(parameter.storage.data(), source.dtype, source.shape[0],
                                    source.elements() / source.shape[0]);
  std::memcpy(parameter.storage.data(), source.data, bytes);
  return parameter;
}

void CpuBackend::linear(const Tensor& x, const Weight& w, const Tensor* bias, const Tensor& y) {
  check(is_f32(x) && is_f32(y) && x.rows == y.rows, "linear: x and y are f32 with equal rows");
  check(x.cols == w.in_features && y.cols == w.out_features,
        "linear: shapes do not fit the weight");
  check(bias == nullptr || is_vector_for(*bias, y), "linear: bias is [1, out]");
  if (w.format == WeightFormat::kInt8 || w.format == WeightFormat::kInt4) {
    cpu::quantized_linear(x, w, bias, y, workspace_, pool_);
  } else {
    cpu::linear(x, w, products_, bias, y, workspace_, pool_);
  }
  pulse().beat();
}

void CpuBackend::embed(const Tensor& table, std::span<const int32_t> ids, const Tensor& y) {
  check(is_float(table) && is_f32(y) && table.cols == y.cols, "embed: table and y do not fit");
  check(static_cast<int64_t>(ids.size()) == y.rows, "embed: one id for each row");
  ids_.assign(ids.begin(), ids.end());
  for (int32_t& id : ids_) {
    if (id < kNoToken) {
      check(drawn_row(id) < static_cast<int>(drawn_ids_.size()), "embed: a row of the newest draw");
      id = drawn_ids_[drawn_row(id)];
    }
    check(id < table.rows, "embed: id beyond the table");
  }
  cpu::embed(table, ids_, y, pool_);
}

void CpuBackend::gather_rows(const Tensor& x, std::span<const int32_t> rows, const Tensor& y) {
  check(is_f32(x) && is_f32(y) && x.cols == y.cols, "gather_rows: x and y do not fit");
  check(static_cast<int64_t>(rows.size()) == y.rows, "gather_rows: one index for each row");
  for (int32_t row : rows) check(row >= 0 && row < x.rows, "gather_rows: index out of range");
  cpu::gather_rows(x, rows, y, pool_);
}

void CpuBackend::copy(const Tensor& x, const Tensor& y) {
  check(is_float(x) && is_f32(y) && same_shape(x, y), "copy: floats to f32 of the same shape");
  cpu::copy(x, y, pool_);
}

void CpuBackend::add(const Tensor& x, const Tensor& y) {
  check(is_f32(x) && is_f32(y) && same_shape(x, y), "add: f32 of the same shape");
  cpu::add(x, y, pool_);
}

void CpuBackend::rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& y) {
  check(is_f32(x) && is_f32(y) && same_shape(x, y), "rms_norm: f32 of the same shape");
  check(is_vector_for(weight, x), "rms_norm: weight is [1, n]");
  cpu::rms_norm(x, weight, eps, y, pool_);
}

void CpuBackend::layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, float eps,
                            const Tensor& y) {
  check(is_f32(x) && is_f32(y) && same_shape(x, y), "layer_norm: f32 of the same shape");
  check(is_vector_for(weight, x) && is_vector_for(bias, x), "layer_norm: parameters are [1, n]");
  cpu::layer_norm(x, weight, bias, eps, cpu::NormOutput::kStore, y, pool_);
}

void CpuBackend::add_layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias,
                                float eps, const Tensor& y) {
  check(is_f32(x) && is_f32(y) && same_shape(x, y), "add_layer_norm: f32 of the same shape");
  check(is_vector_for(weight, x) && is_vector_for(bias, x),
        "add_layer_norm: parameters are [1, n]");
  cpu::layer_norm(x, weight, bias, eps, cpu::NormOutput::kAdd, y, pool_);
}

void CpuBackend::silu_mul(const Tensor& gate, const Tensor& up, const Tensor& y) {
  check(is_f32(gate) && is_f32(up) && is_f32(y), "silu_mul: f32");
  check(same_shape(gate, up) && same_shape(gate, y), "silu_mul: the same shape");
  cpu::silu_mul(gate, up, y, pool_);
}

void CpuBackend::gelu(const Tensor& x) {
  check(is_f32(x), "gelu: f32");
  cpu::gelu(x, pool_);
}

void CpuBackend::extract_patches(const Tensor& pixels, int size, int patch, const Tensor& y) {
  check(patch > 0 && size > 0 && size % patch == 0, "extract_patches: size is whole patches");
  const int64_t grid = size / patch;
  check(is_f32(pixels) && pixels.rows == 3 && pixels.cols == int64_t{size} * size,
        "extract_patches: pixels are [3, size * size]");
  check(is_f32(y) && y.rows == grid * grid && y.cols == int64_t{3} * patch * patch,
        "extract_patches: y is [grid^2, 3 * patch^2]");
  cpu::extract_patches(pixels, size, patch, y, pool_);
}

void CpuBackend::merge_2x2(const Tensor& x, int grid, const Tensor& y) {
  const int64_t cells = grid / 2;
  check(grid > 0 && grid % 2 == 0 && is_f32(x) && x.rows == int64_t{grid} * grid,
        "merge_2x2: x is [grid^2, c], grid even");
  check(is_f32(y) && y.rows == cells * cells && y.cols == 4 * x.cols,
        "merge_2x2: y is [(grid / 2)^2, 4c]");
  cpu::merge_2x2(x, grid, y, pool_);
}

void CpuBackend::rope_and_store_kv(const Tensor& qkv, int heads, std::span<const int32_t> positions,
                                   std::span<const int64_t> slots, const RopeTable& rope,
                                   const KvLayer& kv) {
  check(kv.dtype == DType::kF32 && is_f32(qkv), "rope: the CPU's cache and activations are f32");
  check(qkv.cols == int64_t{heads + 2 * kv.kv_heads} * kv.head_dim && kv.head_dim % 2 == 0,
        "rope: qkv is [rows, (heads + 2 * kv_heads) * head_dim]");
  check(rope.cos.cols == kv.head_dim / 2 && rope.sin.cols == kv.head_dim / 2,
        "rope: tables are [positions, head_dim / 2]");
  check(static_cast<int64_t>(positions.size()) == qkv.rows && slots.size() == positions.size(),
        "rope: one position and one slot for each row");
  check_rope_rows(positions, slots, rope.cos.rows, kv);
  cpu::rope_and_store_kv(qkv, heads, positions, slots, rope, kv, pool_);
}

void CpuBackend::paged_attention(const Tensor& q, int heads, std::span<const AttentionRun> runs,
                                 std::span<const int32_t> block_tables, const KvLayer& kv,
                                 float scale, const Tensor& y) {
  check(kv.dtype == DType::kF32 && is_f32(q) && is_f32(y), "paged_attention: f32");
  check(kv.kv_heads > 0 && heads % kv.kv_heads == 0, "paged_attention: whole groups of heads");
  check(same_shape(q, y) && q.cols == int64_t{heads} * kv.head_dim,
        "paged_attention: q and y are [rows, heads * head_dim]");
  check_runs(runs, block_tables, kv, q.rows);
  cpu::paged_attention(q, heads, runs, block_tables, kv, scale, y, workspace_, pool_);
  pulse().beat();
}

void CpuBackend::dense_attention(const Tensor& qkv, int heads, int head_dim, float scale,
                                 const Tensor& y) {
  check(is_f32(qkv) && is_f32(y) && qkv.rows == y.rows, "dense_attention: f32 with equal rows");
  check(qkv.cols == int64_t{3} * heads * head_dim && y.cols == int64_t{heads} * head_dim,
        "dense_attention: qkv is [rows, 3 * heads * head_dim]");
  cpu::dense_attention(qkv, heads, head_dim, scale, y, workspace_, pool_);
  pulse().beat();
}

void CpuBackend::start_sampling(const Tensor& logits, std::span<const SampleRow> rows) {
  check(is_f32(logits) && logits.cols > 0, "start_sampling: f32 logits");
  check(static_cast<int64_t>(rows.size()) == logits.rows,
        "start_sampling: one set of parameters for each row");
  check(draws_.size() < kMostDraws, "start_sampling: earlier draws were not collected");
  for (const SampleRow& row : rows) check_penalties(row);
  std::vector<SampledToken> sampled(rows.size());
  cpu::sample(logits, rows, sampled, sampling_, pool_);
  drawn_ids_.clear();
  for (const SampledToken& token : sampled) drawn_ids_.push_back(token.id);
  draws_.push_back(std::move(sampled));
}

void CpuBackend::collect(std::span<SampledToken> sampled) {
  check(!draws_.empty() && draws_.front().size() == sampled.size(),
        "collect: one result for each row of a draw");
  std::move(draws_.front().begin(), draws_.front().end(), sampled.begin());
  draws_.pop_front();
}

}  // namespace cogserve
