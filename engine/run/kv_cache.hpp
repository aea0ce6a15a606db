// The memory behind the block ids: one K and one V array for each layer. Engine thread.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/backend/backend.hpp"
#include "engine/config.hpp"

namespace cogserve {

class KvCache {
 public:
  static absl::StatusOr<KvCache> create(Backend* backend, const ModelConfig& model, int num_blocks,
                                        int block_size);

  // Bytes of one block over all layers, K and V.
  static size_t block_bytes(const ModelConfig& model, int block_size, DType dtype);

  std::span<const KvLayer> layers() const { return layers_; }

 private:
  std::vector<Buffer> buffers_;
  std::vector<KvLayer> layers_;
};

}  // namespace cogserve
