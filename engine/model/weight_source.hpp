// Where a model's weights come from: a checkpoint's files, or a random generator.
//
// Loading has two passes, so that a wrong checkpoint is refused before a byte of it is copied:
// `require` every tensor and `finish`, then `read` and `release` them one by one in file order. The
// weight of a Linear goes by `require_weight` and `read_weight`: it may be quantised.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/base/host_weight.hpp"
#include "engine/base/tensor.hpp"

namespace cogserve {

// A tensor that was found, not read yet.
struct StoredTensor {
  std::string name;
  DType dtype = DType::kF32;  // of a quantised matrix: what its elements are rounded to
  std::vector<int64_t> shape;
  int64_t order = 0;  // ascending in the order in which reading is cheapest
  WeightFormat format = WeightFormat::kDense;
  // Of a quantised matrix, as in HostWeight; it may turn out to need no zeros when it is read.
  int64_t group_size = 0;
  bool has_zeros = false;
  DType scale_dtype = DType::kF32;
};

class WeightSource {
 public:
  virtual ~WeightSource() = default;

  // NOT_FOUND / CHECKPOINT_MISSING_TENSOR, INVALID_ARGUMENT / CHECKPOINT_SHAPE.
  virtual absl::StatusOr<StoredTensor> require(const std::string& name,
                                               const std::vector<int64_t>& shape) = 0;

  // As `require`, for a matrix [out, in...] that may be stored in a quantised layout. Beside the
  // errors of `require` those of find_packed_matrix.
  virtual absl::StatusOr<StoredTensor> require_weight(const std::string& name,
                                                      const std::vector<int64_t>& shape) {
    return require(name, shape);
  }

  // The path of the file that holds a tensor that was required; empty without files.
  virtual std::string file_of(const StoredTensor& /*tensor*/) const { return ""; }

  // How the required matrices are stored, for the start-up banner.
  virtual std::string description() const { return ""; }

  // Once everything is required: INVALID_ARGUMENT / CHECKPOINT_EXTRA_TENSOR if more is there.
  virtual absl::Status finish() const = 0;

  // The content, valid until the tensor is released or the next one is read.
  virtual absl::StatusOr<HostTensor> read(const StoredTensor& tensor) = 0;
  virtual absl::StatusOr<HostWeight> read_weight(const StoredTensor& tensor) {
    absl::StatusOr<HostTensor> dense = read(tensor);
    if (!dense.ok()) return dense.status();
    return dense_weight(*std::move(dense));
  }
  virtual void release(const StoredTensor& tensor) = 0;
};

}  // namespace cogserve
