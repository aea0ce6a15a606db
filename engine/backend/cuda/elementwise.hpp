// Additions, activations, rows that are copied or looked up, and the rearrangements of a picture.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "engine/base/tensor.hpp"

namespace cogserve::cuda {

// See Backend. Tensors are activations unless said otherwise.
void add(const Tensor& x, const Tensor& y, cudaStream_t stream);
void silu_mul(const Tensor& gate, const Tensor& up, const Tensor& y, cudaStream_t stream);
void gelu(const Tensor& x, cudaStream_t stream);

// Where the rows of a copy come from: arrays of the device.
struct RowIndex {
  const int32_t* rows = nullptr;       // null: row r comes from row r
  const int32_t* drawn_ids = nullptr;  // what a `drawn_token` among `rows` stands for
};

// y[r, :] = x[rows[r], :]; an index of -1 leaves its row untouched. Any float type to any other.
void copy_rows(const Tensor& x, const RowIndex& index, const Tensor& y, cudaStream_t stream);

// pixels are f32.
void extract_patches(const Tensor& pixels, int size, int patch, const Tensor& y,
                     cudaStream_t stream);
void merge_2x2(const Tensor& x, int grid, const Tensor& y, cudaStream_t stream);

}  // namespace cogserve::cuda
