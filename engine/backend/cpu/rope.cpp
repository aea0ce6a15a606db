#include "engine/backend/cpu/rope.hpp"

#include "engine/backend/cpu/simd_targets.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/backend/cpu/rope.cpp"
#include "hwy/foreach_target.h"  // compiles this file once for each target
// (and these after it)
#include <cstring>

#include "engine/backend/cpu/parallel_rows.hpp"
#include "engine/backend/cpu/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace cogserve::cpu::HWY_NAMESPACE {

// One head, from -> to (which may be from): the halves (a, b) become
// (a cos - b sin, b cos + a sin), products and sums rounded one by one as the model was trained.
HWY_INLINE void rotate(const float* from, const float* cos, const float* sin, size_t half,
                       float* to) {
  const F32 d;
  size_t i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    const F32Vec a = hn::LoadU(d, from + i);
    const F32Vec b = hn::LoadU(d, from + half + i);
    const F32Vec c = hn::LoadU(d, cos + i);
    const F32Vec s = hn::LoadU(d, sin + i);
    hn::StoreU(hn::Sub(hn::Mul(a, c), hn::Mul(b, s)), d, to + i);
    hn::StoreU(hn::Add(hn::Mul(b, c), hn::Mul(a, s)), d, to + half + i);
  }
  for (; i < half; ++i) {
    const float a = from[i];
    const float b = from[half + i];
    to[i] = a * cos[i] - b * sin[i];
    to[half + i] = b * cos[i] + a * sin[i];
  }
}

void rope_and_store_kv_rows(const Tensor& qkv, int heads, const int32_t* positions,
                            const int64_t* slots, const RopeTable& rope, const KvLayer& kv,
                            size_t begin, size_t end) {
  const size_t head_dim = kv.head_dim;
  for (size_t row = begin; row < end; ++row) {
    const float* cos = rope.cos.row<float>(positions[row]);
    const float* sin = rope.sin.row<float>(positions[row]);
    float* q = qkv.row<float>(row);
    for (int head = 0; head < heads; ++head) {
      rotate(q + head * head_dim, cos, sin, head_dim / 2, q + head * head_dim);
    }
    if (slots[row] == kNoSlot) continue;
    const float* k = q + heads * head_dim;
    const float* v = k + kv.kv_heads * head_dim;
    const int64_t block = slots[row] / kv.block_size;
    const int64_t offset = slots[row] % kv.block_size;
    for (int head = 0; head < kv.kv_heads; ++head) {
      const size_t at =
          ((block * kv.kv_heads + head) * kv.block_size + offset) * static_cast<int64_t>(head_dim);
      rotate(k + head * head_dim, cos, sin, head_dim / 2, static_cast<float*>(kv.keys) + at);
      std::memcpy(static_cast<float*>(kv.values) + at, v + head * head_dim,
                  head_dim * sizeof(float));
    }
  }
}

}  // namespace cogserve::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace cogserve::cpu {

HWY_EXPORT(rope_and_store_kv_rows);

void rope_and_store_kv(const Tensor& qkv, int heads, std::span<const int32_t> positions,
                       std::span<const int64_t> slots, const RopeTable& rope, const KvLayer& kv,
                       ThreadPool& pool) {
  parallel_rows(pool, qkv.rows, qkv.cols, [&](size_t begin, size_t end) {
    HWY_DYNAMIC_DISPATCH(rope_and_store_kv_rows)
    (qkv, heads, positions.data(), slots.data(), rope, kv, begin, end);
  });
}

}  // namespace cogserve::cpu
#endif  // HWY_ONCE
