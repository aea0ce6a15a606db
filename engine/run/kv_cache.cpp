#include "engine/run/kv_cache.hpp"

#include <utility>

namespace cogserve {

size_t KvCache::block_bytes(const ModelConfig& model, int block_size, DType dtype) {
  return size_t{2} * model.layers * model.kv_heads * block_size * model.head_dim() *
         dtype_size(dtype);
}

absl::StatusOr<KvCache> KvCache::create(Backend* backend, const ModelConfig& model, int num_blocks,
                                        int block_size) {
  const DType dtype = backend->kv_dtype();
  const size_t array_bytes = bytes(model, num_blocks, block_size, dtype) / (2 * model.layers);
  KvCache cache;
  for (int layer = 0; layer < model.layers; ++layer) {
    auto keys = backend->allocate(array_bytes);
    if (!keys.ok()) return keys.status();
    auto values = backend->allocate(array_bytes);
    if (!values.ok()) return values.status();
    cache.layers_.push_back({.keys = keys->data(),
                             .values = values->data(),
                             .dtype = dtype,
                             .num_blocks = num_blocks + 1,
                             .kv_heads = model.kv_heads,
                             .block_size = block_size,
                             .head_dim = model.head_dim()});
    cache.buffers_.push_back(*std::move(keys));
    cache.buffers_.push_back(*std::move(values));
  }
  return cache;
}

}  // namespace cogserve
