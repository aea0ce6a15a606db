// The arithmetic of the emulator's cuBLASLt: one product whose arguments have been checked.
#pragma once

#include <library_types.h>

#include <cstddef>
#include <cstdint>

#include "tests/engine/cuda_emulator/cublaslt.hpp"

namespace cogserve::emulator {

// Column-major, as stored.
struct LibraryMatrix {
  void* data = nullptr;
  cudaDataType_t type = CUDA_R_32F;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t ld = 0;
};

struct LibraryProduct {
  int64_t m = 0;
  int64_t n = 0;
  int64_t k = 0;
  LibraryMatrix a;
  LibraryMatrix b;
  LibraryMatrix c;
  LibraryMatrix d;
  bool a_transposed = false;
  bool b_transposed = false;
  float alpha = 1.0f;
  float beta = 0.0f;
  const void* bias = nullptr;  // null: none
  LibraryKernel kernel = LibraryKernel::kInOrder;
  int splits = 1;
  cudaDataType_t part_type = CUDA_R_32F;  // of what is split
  void* workspace = nullptr;
};

size_t library_type_bytes(cudaDataType_t type);

// Of a product that is split, 0 for others.
size_t workspace_bytes(const LibraryProduct& product);

// What the stream does. Throws Error for memory that nobody has allocated, or written.
void multiply(const LibraryProduct& product);

}  // namespace cogserve::emulator
