// Weights of a model, owned, in the layout of the backend that loaded them.
#pragma once

#include <array>
#include <cstdint>

#include "engine/base/buffer.hpp"
#include "engine/base/host_weight.hpp"
#include "engine/base/tensor.hpp"

namespace cogserve {

// A matrix W of y = x W^T. Only the backend that made it knows how `storage` is laid out.
struct Weight {
  WeightFormat format = WeightFormat::kDense;
  DType dtype = DType::kF32;  // of dense elements, or HostWeight's of quantised ones
  int64_t out_features = 0;
  int64_t in_features = 0;
  int64_t group_size = 0;  // inputs that share a scale, where quantised
  bool has_zeros = false;  // kInt4: each group has a zero of its own, else all have 8
  DType scale_dtype = DType::kF32;
  std::array<float, 16> codebook = {};  // kCodebook4
  Buffer storage;
};

// A vector (norm, bias) or a table that is read by rows (embedding): a plain row-major tensor.
struct Parameter {
  Buffer storage;
  Tensor tensor;
};

}  // namespace cogserve
