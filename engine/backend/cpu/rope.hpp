// Rotary position embedding, and keys and values into the paged cache.
#pragma once

#include <cstdint>
#include <span>

#include "engine/backend/backend.hpp"
#include "engine/backend/cpu/thread_pool.hpp"

namespace cogserve::cpu {

// See Backend::rope_and_store_kv. The cache is f32 here.
void rope_and_store_kv(const Tensor& qkv, int heads, std::span<const int32_t> positions,
                       std::span<const int64_t> slots, const RopeTable& rope, const KvLayer& kv,
                       ThreadPool& pool);

}  // namespace cogserve::cpu
