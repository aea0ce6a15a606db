// The memory of encoded pictures: a fixed number of places, allocated once. Engine thread.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/backend/backend.hpp"
#include "engine/config.hpp"

namespace cogserve {

class FeaturePool {
 public:
  static absl::StatusOr<FeaturePool> create(Backend* backend, const ModelConfig& model, int places);

  // [image tokens, hidden], the sequence's own until it is released; the same again if it has one.
  // Throws InvariantError when all places are taken.
  Tensor take(uint64_t sequence_id);
  // Throws InvariantError if the sequence has none.
  Tensor find(uint64_t sequence_id) const;
  // Nothing happens if the sequence has none.
  void release(uint64_t sequence_id);

 private:
  Tensor at(int place) const;

  Buffer memory_;
  DType dtype_ = DType::kF32;
  int rows_ = 0;  // of one picture
  int hidden_ = 0;
  std::vector<int> free_;
  std::unordered_map<uint64_t, int> places_;  // by sequence id
};

}  // namespace cogserve
