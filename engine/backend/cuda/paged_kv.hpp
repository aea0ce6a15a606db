// One layer's paged cache as kernels see it: a copy of KvLayer without the rest of the backend's
// interface, so that kernels compile without it.
#pragma once

#include <cstdint>

#include "engine/base/dtype.hpp"

namespace cogserve::cuda {

// keys and values [num_blocks, kv_heads, block_size, head_dim], activations' dtype.
struct PagedKv {
  void* keys = nullptr;
  void* values = nullptr;
  DType dtype = DType::kBF16;
  int kv_heads = 0;
  int block_size = 0;
  int head_dim = 0;
};

}  // namespace cogserve::cuda
