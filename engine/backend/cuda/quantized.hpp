// Products with quantised weights, and what brings such weights to the device.
#pragma once

#include <cuda_runtime.h>

#include "engine/backend/cuda/quantized_layout.hpp"
#include "engine/base/tensor.hpp"

namespace cogserve::cuda {

// Rows of x up to which quantized_matmul is the way; above, the weights are better unpacked once
// for all of them.
inline constexpr int64_t kQuantizedRows = 64;

// Whether quantized_matmul can do with these groups.
bool suits_quantized_matmul(const QuantizedLayout& layout);

// y = W x (+ bias) for up to kQuantizedRows rows at a time: x [rows, in] and y [rows, out] are
// activations, y may be f32, bias [1, out] is f32 or null. Sums are f32; integer formats get their
// scales after the products of a group are summed. Each row is summed in one order, whatever their
// number. Bytes: those of W once for each 64 rows (for each 8, if x is not aligned to 16 bytes).
void quantized_matmul(const Tensor& x, const QuantizedMatrix& w, const Tensor* bias,
                      const Tensor& y, cudaStream_t stream);

// y = silu(gate x) * (up x) for matrices of the same layout and codebook: the bits of two products
// and silu_mul. y is an activation.
void gated_quantized_matmul(const Tensor& x, const QuantizedMatrix& gate, const QuantizedMatrix& up,
                            const Tensor& y, cudaStream_t stream);

// Outputs [first, first + y.rows) of W as activations: y [rows, in], contiguous. `first` is a
// multiple of 16. Each element is value * scale in f32, rounded once. Bytes: 2 in and out of y.
void dequantize(const QuantizedMatrix& w, int64_t first, const Tensor& y, cudaStream_t stream);

// `rows` outputs of a HostWeight from `first` on, a multiple of 16.
struct PackedRows {
  int64_t first;
  int64_t rows;
  const uint8_t* codes;  // [rows, in / 2] or [rows, in] bytes
  const float* scales;   // [rows, groups]
  const uint8_t* zeros;  // [rows, groups], or null
};

// These rows, on the device as they are, into the layout at `storage` (layout.bytes()). After all
// rows everything that the layout uses is written.
void pack_quantized(const QuantizedLayout& layout, const PackedRows& part, void* storage,
                    cudaStream_t stream);

}  // namespace cogserve::cuda
