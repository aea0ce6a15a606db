// Where a model's weights come from: a checkpoint's files, or a random generator.
//
// Loading has two passes, so that a wrong checkpoint is refused before a byte of it is copied:
// `require` every tensor and `finish`, then `read` and `release` them one by one in file order.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/base/tensor.hpp"

namespace cogserve {

// A tensor that was found, not read yet.
struct StoredTensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  int64_t order = 0;  // ascending in the order in which reading is cheapest
};

class WeightSource {
 public:
  virtual ~WeightSource() = default;

  // NOT_FOUND / CHECKPOINT_MISSING_TENSOR, INVALID_ARGUMENT / CHECKPOINT_SHAPE.
  virtual absl::StatusOr<StoredTensor> require(const std::string& name,
                                               const std::vector<int64_t>& shape) = 0;

  // Once everything is required: INVALID_ARGUMENT / CHECKPOINT_EXTRA_TENSOR if more is there.
  virtual absl::Status finish() const = 0;

  // The content, valid until the tensor is released or the next one is read.
  virtual absl::StatusOr<HostTensor> read(const StoredTensor& tensor) = 0;
  virtual void release(const StoredTensor& tensor) = 0;
};

}  // namespace cogserve
