// The memory behind the block ids: one K and one V array for each layer, side by side in one
// allocation. Engine thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/backend/backend.hpp"
#include "engine/config.hpp"

namespace cogserve {

class KvCache {
 public:
  // `num_blocks` for sequences, and on top of them one that belongs to none.
  static absl::StatusOr<KvCache> create(Backend* backend, const ModelConfig& model, int num_blocks,
                                        int block_size);

  // Bytes of one block over all layers, K and V.
  static size_t block_bytes(const ModelConfig& model, int block_size, DType dtype);
  // Bytes of what create() allocates.
  static size_t bytes(const ModelConfig& model, int num_blocks, int block_size, DType dtype);
  // The largest `num_blocks` for which that is at most `bytes`; negative if there is none.
  static int64_t blocks_in(int64_t bytes, const ModelConfig& model, int block_size, DType dtype);

  std::span<const KvLayer> layers() const { return layers_; }
  // Where rows that belong to no sequence leave their keys and values.
  int32_t spare_block() const { return layers_.front().num_blocks - 1; }

 private:
  Buffer memory_;
  std::vector<KvLayer> layers_;
};

}  // namespace cogserve
