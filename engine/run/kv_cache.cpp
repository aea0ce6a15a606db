#include "engine/run/kv_cache.hpp"

#include <utility>

namespace cogserve {
namespace {

constexpr size_t kAlignment = 256;  // of an array: as good as an allocation of its own

int arrays(const ModelConfig& model) { return 2 * model.layers; }

size_t array_bytes(const ModelConfig& model, int num_blocks, int block_size, DType dtype) {
  const size_t block = KvCache::block_bytes(model, block_size, dtype) / arrays(model);
  const size_t blocks = size_t{1} + static_cast<size_t>(num_blocks);
  return (blocks * block + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

size_t KvCache::block_bytes(const ModelConfig& model, int block_size, DType dtype) {
  return size_t{2} * model.layers * model.kv_heads * block_size * model.head_dim() *
         dtype_size(dtype);
}

size_t KvCache::bytes(const ModelConfig& model, int num_blocks, int block_size, DType dtype) {
  return arrays(model) * array_bytes(model, num_blocks, block_size, dtype);
}

int64_t KvCache::blocks_in(int64_t bytes, const ModelConfig& model, int block_size, DType dtype) {
  constexpr auto kStep = static_cast<int64_t>(kAlignment);
  const auto block = static_cast<int64_t>(block_bytes(model, block_size, dtype));
  const int64_t array = bytes / arrays(model) / kStep * kStep;
  return array / (block / arrays(model)) - 1;
}

absl::StatusOr<KvCache> KvCache::create(Backend* backend, const ModelConfig& model, int num_blocks,
                                        int block_size) {
  const DType dtype = backend->kv_dtype();
  auto memory = backend->allocate(bytes(model, num_blocks, block_size, dtype));
  if (!memory.ok()) return memory.status();
  KvCache cache;
  cache.memory_ = *std::move(memory);
  const size_t step = array_bytes(model, num_blocks, block_size, dtype);
  auto* next = static_cast<std::byte*>(cache.memory_.data());
  for (int layer = 0; layer < model.layers; ++layer, next += 2 * step) {
    cache.layers_.push_back({.keys = next,
                             .values = next + step,
                             .dtype = dtype,
                             .num_blocks = num_blocks + 1,
                             .kv_heads = model.kv_heads,
                             .block_size = block_size,
                             .head_dim = model.head_dim()});
  }
  return cache;
}

}  // namespace cogserve
