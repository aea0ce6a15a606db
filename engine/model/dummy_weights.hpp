// Random weights from a seed, for any configuration: shapes and speed without a checkpoint.
//
// The same seed gives the same weights on every machine. Scaled so that activations neither
// vanish nor overflow through any depth.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/model/weight_source.hpp"

namespace cogserve {

class DummyWeights : public WeightSource {
 public:
  DummyWeights(uint64_t seed, DType dtype) : seed_(seed), dtype_(dtype) {}

  absl::StatusOr<StoredTensor> require(const std::string& name,
                                       const std::vector<int64_t>& shape) override;
  std::string description() const override { return "random"; }
  absl::Status finish() const override { return absl::OkStatus(); }
  absl::StatusOr<HostTensor> read(const StoredTensor& tensor) override;
  // Keeps its memory for the next tensor.
  void release(const StoredTensor& /*tensor*/) override {}

 private:
  uint64_t seed_;
  DType dtype_;
  int64_t required_ = 0;
  std::unique_ptr<std::byte[]> content_;  // of the tensor that was read last
  size_t capacity_ = 0;
};

// config.dtype's element type: "float32", "float16", else bf16.
DType dummy_dtype(const std::string& torch_dtype);

}  // namespace cogserve
