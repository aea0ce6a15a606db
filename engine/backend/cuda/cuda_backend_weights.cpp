// CudaBackend's weights: bringing them to the device, and the products with them.
#include <algorithm>
#include <string>
#include <utility>

#include "engine/backend/cuda/cuda_backend.hpp"
#include "engine/backend/cuda/elementwise.hpp"
#include "engine/backend/cuda/error.hpp"
#include "engine/backend/cuda/gemv.hpp"
#include "engine/backend/cuda/own_memory.hpp"
#include "engine/backend/cuda/quantized.hpp"
#include "engine/backend/cuda/weight_memory.hpp"
#include "engine/backend/shape_checks.hpp"
#include "engine/base/check.hpp"

namespace cogserve {
namespace {

Tensor dense_matrix(const Weight& w) {
  return Tensor::matrix(w.storage.data(), w.dtype, w.out_features, w.in_features);
}

cuda::QuantizedMatrix quantized_matrix(const Weight& w) {
  const cuda::QuantizedLayout layout = {.format = w.format,
                                        .out = w.out_features,
                                        .in = w.in_features,
                                        .group_size = w.group_size,
                                        .half_scales = w.scale_dtype == DType::kF16,
                                        .has_zeros = w.has_zeros};
  return {layout, w.storage.data(), w.codebook};
}

Weight describe(const HostWeight& source, DType dtype) {
  Weight weight;
  weight.format = source.format;
  weight.dtype = dtype;
  weight.out_features = source.out_features;
  weight.in_features = source.in_features;
  weight.group_size = source.group_size;
  weight.has_zeros = source.has_zeros;
  weight.codebook = source.codebook;
  return weight;
}

}  // namespace

absl::Status CudaBackend::reserve_weights(size_t bytes) {
  absl::StatusOr<Buffer> memory = allocate_raw(cuda::WeightArena::bytes_for(bytes));
  if (!memory.ok()) return memory.status();
  weights_.open(*std::move(memory));
  return absl::OkStatus();
}

absl::StatusOr<Buffer> CudaBackend::allocate_weight(size_t bytes) {
  if (void* const place = weights_.take(bytes)) return Buffer(place, bytes, [](void*) {});
  return allocate_raw(bytes);
}

absl::StatusOr<Weight> CudaBackend::load_weight(const HostWeight& source) {
  check(source.out_features > 0 && source.dtype != DType::kI32, "a weight is a matrix of floats");
  bind_thread();
  Weight weight = describe(source, activation_);
  absl::StatusOr<Buffer> storage = allocate_weight(cuda::weight_bytes(source));
  if (!storage.ok()) return storage.status();
  weight.storage = *std::move(storage);
  if (source.format == WeightFormat::kDense) {
    write_dense(source.dense, &weight);
  } else {
    write_quantized(source, &weight);
  }
  return weight;
}

// Another dtype than the activations' is converted on the device, as many rows at a time as there
// is room for: memory for a whole matrix is in no plan.
void CudaBackend::write_dense(const HostTensor& source, Weight* weight) {
  const Tensor matrix = Tensor::matrix(weight->storage.data(), activation_, weight->out_features,
                                       weight->in_features);
  const size_t row_bytes = weight->in_features * dtype_size(source.dtype);
  if (source.dtype == activation_) {
    write(matrix.data, source.data, matrix.rows * row_bytes);
    return;
  }
  const auto step = static_cast<int64_t>(cuda::kUnpackedBytes / row_bytes);
  check(step > 0, "load_weight: no room for a row");
  for (int64_t first = 0; first < matrix.rows; first += step) {
    const int64_t rows = std::min(step, matrix.rows - first);
    const Tensor original = Tensor::matrix(unpacked_.get(), source.dtype, rows, matrix.cols);
    write(original.data, source.data + first * row_bytes, rows * row_bytes);
    cuda::copy_rows(original, {}, matrix.slice_rows(first, rows), stream_.get());
  }
  wait();
}

// In parts for the same reason.
void CudaBackend::write_quantized(const HostWeight& source, Weight* weight) {
  const cuda::QuantizedLayout layout = cuda::layout_of(source);
  weight->scale_dtype = layout.half_scales ? DType::kF16 : DType::kF32;
  const bool int8 = source.format == WeightFormat::kInt8;
  const size_t code_bytes = source.in_features / (int8 ? 1 : 2);  // of a row
  const size_t groups = source.groups();
  const size_t row_bytes = code_bytes + groups * (sizeof(float) + (layout.has_zeros ? 1 : 0));
  const auto step =
      static_cast<int64_t>(cuda::kUnpackedBytes / row_bytes / cuda::kTileOuts * cuda::kTileOuts);
  check(step > 0, "load_weight: no room for the rows of a tile");
  for (int64_t first = 0; first < source.out_features; first += step) {
    const int64_t rows = std::min(step, source.out_features - first);
    auto* const scales = static_cast<float*>(unpacked_.get());
    auto* const codes = reinterpret_cast<uint8_t*>(scales + rows * groups);
    uint8_t* const zeros = layout.has_zeros ? codes + rows * code_bytes : nullptr;
    write(scales, source.scales + first * groups, rows * groups * sizeof(float));
    write(codes, source.codes + first * code_bytes, rows * code_bytes);
    if (layout.has_zeros) write(zeros, source.zeros + first * groups, rows * groups);
    cuda::pack_quantized(layout, {first, rows, codes, scales, zeros}, weight->storage.data(),
                         stream_.get());
  }
  wait();  // quantized_matmul reads weights before it waits for earlier kernels
}

absl::StatusOr<Parameter> CudaBackend::load_vector(const HostTensor& source) {
  check(source.dtype != DType::kI32, "a parameter vector holds floats");
  bind_thread();
  const int64_t count = source.elements();
  const size_t second = cuda::second_copy_offset(count);
  absl::StatusOr<Buffer> storage = allocate_weight(cuda::vector_bytes(count));
  if (!storage.ok()) return storage.status();
  Parameter parameter;
  parameter.storage = *std::move(storage);
  parameter.tensor = Tensor::matrix(parameter.storage.data(), DType::kF32, 1, count);
  std::vector<float> values(count);
  for (int64_t i = 0; i < count; ++i) values[i] = host_value(source, i);
  write(parameter.tensor.data, values.data(), count * sizeof(float));
  auto* const copy = static_cast<std::byte*>(parameter.storage.data()) + second;
  cuda::copy_rows(parameter.tensor, {}, Tensor::matrix(copy, activation_, 1, count), stream_.get());
  return parameter;
}

absl::StatusOr<Parameter> CudaBackend::load_table(const HostTensor& source) {
  check(!source.shape.empty() && source.shape[0] > 0, "a table has rows");
  bind_thread();
  const size_t bytes = source.elements() * dtype_size(source.dtype);
  absl::StatusOr<Buffer> storage = allocate_weight(bytes);
  if (!storage.ok()) return storage.status();
  Parameter parameter;
  parameter.storage = *std::move(storage);
  parameter.tensor = Tensor::matrix(parameter.storage.data(), source.dtype, source.shape[0],
                                    source.elements() / source.shape[0]);
  write(parameter.tensor.data, source.data, bytes);
  return parameter;
}

void CudaBackend::linear(const Tensor& x, const Weight& w, const Tensor* bias, const Tensor& y) {
  check(is_activation(x) && (is_activation(y) || is_f32(y)) && x.rows == y.rows,
        "linear: x is an activation, y that or f32, with equal rows");
  check(x.cols == w.in_features && y.cols == w.out_features,
        "linear: shapes do not fit the weight");
  check(w.dtype == activation_, "linear: the weight was loaded by this backend");
  check(bias == nullptr || is_vector_for(*bias, y), "linear: bias is [1, out]");
  bind_thread();
  if (w.format != WeightFormat::kDense) return quantized_linear(x, w, bias, y);
  multiply(x, dense_matrix(w), bias, 0, y);
}

// One kernel for few rows of weights of one form, else three operations.
void CudaBackend::gated_linear(const Tensor& x, const Weight& gate, const Weight& up,
                               const Tensor& scratch, const Tensor& y) {
  check(is_activation(x) && is_activation(y) && is_activation(scratch) && x.rows == y.rows &&
            same_shape(y, scratch),
        "gated_linear: activations with equal rows");
  check(x.cols == gate.in_features && y.cols == gate.out_features && x.cols == up.in_features &&
            y.cols == up.out_features,
        "gated_linear: shapes do not fit the weights");
  check(gate.dtype == activation_ && up.dtype == activation_,
        "gated_linear: the weights were loaded by this backend");
  bind_thread();
  const bool dense = gate.format == WeightFormat::kDense && up.format == WeightFormat::kDense;
  if (dense && x.rows <= cuda::kGemvRows) {
    return cuda::gated_gemv(x, dense_matrix(gate), dense_matrix(up), y, stream_.get());
  }
  if (gate.format != WeightFormat::kDense && up.format != WeightFormat::kDense &&
      x.rows <= cuda::kQuantizedRows) {
    const cuda::QuantizedMatrix first = quantized_matrix(gate), second = quantized_matrix(up);
    if (first.layout == second.layout && first.codebook == second.codebook &&
        cuda::suits_quantized_matmul(first.layout)) {
      return cuda::gated_quantized_matmul(x, first, second, y, stream_.get());
    }
  }
  Backend::gated_linear(x, gate, up, scratch, y);
}

// Outputs [first, first + matrix.rows) of a weight with this bias.
void CudaBackend::multiply(const Tensor& x, const Tensor& matrix, const Tensor* bias, int64_t first,
                           const Tensor& y) {
  if (x.rows > cuda::kGemvRows) {
    const void* added = nullptr;
    if (bias != nullptr) {
      const size_t offset =
          is_f32(y) ? first * sizeof(float)
                    : cuda::second_copy_offset(bias->cols) + first * cuda::kActivationBytes;
      added = static_cast<const std::byte*>(bias->data) + offset;
    }
    if (matmul_.run(x, matrix, added, y, stream_)) return;
    if (!std::exchange(noticed_slow_products_, true)) {
      notice("cuBLASLt has no algorithm for products of " + std::to_string(x.rows) + " rows by [" +
             std::to_string(matrix.rows) + ", " + std::to_string(matrix.cols) +
             "]: weights are read once for every 8 rows");
    }
  }
  if (bias == nullptr) return cuda::gemv(x, matrix, nullptr, y, stream_.get());
  const Tensor slice = bias->slice_cols(first, matrix.rows);
  cuda::gemv(x, matrix, &slice, y, stream_.get());
}

// For many rows the weights are unpacked, as many outputs at a time as there is room for.
void CudaBackend::quantized_linear(const Tensor& x, const Weight& w, const Tensor* bias,
                                   const Tensor& y) {
  const cuda::QuantizedMatrix matrix = quantized_matrix(w);
  if (x.rows <= cuda::kQuantizedRows) {
    if (cuda::suits_quantized_matmul(matrix.layout)) {
      return cuda::quantized_matmul(x, matrix, bias, y, stream_.get());
    }
    if (!std::exchange(noticed_small_groups_, true)) {
      notice("groups of " + std::to_string(w.group_size) +
             " inputs, not of whole 64: such weights are unpacked in every step, which is slow");
    }
  }
  const auto room = static_cast<int64_t>(cuda::kUnpackedBytes / cuda::kActivationBytes);
  const int64_t step = room / w.in_features / cuda::kTileOuts * cuda::kTileOuts;
  check(step > 0, "linear: no room for the rows of a quantised weight");
  for (int64_t first = 0; first < w.out_features; first += step) {
    const int64_t outs = std::min(step, w.out_features - first);
    const Tensor unpacked = Tensor::matrix(unpacked_.get(), activation_, outs, w.in_features);
    cuda::dequantize(matrix, first, unpacked, stream_.get());
    multiply(x, unpacked, bias, first, y.slice_cols(first, outs));
  }
}

}  // namespace cogserve
