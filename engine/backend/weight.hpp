// Weights of a model, owned, in the layout of the backend that loaded them.
#pragma once

#include <cstdint>

#include "engine/base/buffer.hpp"
#include "engine/base/tensor.hpp"

namespace cogserve {

// A matrix W of y = x W^T. Only the backend that made it knows how `storage` is laid out;
// quantised formats will be further values of a format field, not further classes.
struct Weight {
  DType dtype = DType::kF32;  // of the stored elements; the checkpoint's own
  int64_t out_features = 0;
  int64_t in_features = 0;
  Buffer storage;
};

// A vector (norm, bias) or a table that is read by rows (embedding): a plain row-major tensor.
struct Parameter {
  Buffer storage;
  Tensor tensor;
};

}  // namespace cogserve
