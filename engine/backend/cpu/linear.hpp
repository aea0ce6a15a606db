// y = x W^T (+ bias), W in bf16, f16, f32 or a codebook's f32 values, sums in f32. Work: 2 * rows *
// in * out FLOP, and at few rows the bytes of W are all that counts.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/backend/cpu/thread_pool.hpp"
#include "engine/backend/cpu/workspace.hpp"
#include "engine/backend/weight.hpp"
#include "engine/base/tensor.hpp"

namespace cogserve::cpu {

// What x is multiplied as. kBF16: where W is dense and in bf16, x is rounded to it, which halves
// the time on processors that multiply bf16 (bf16_dot.hpp).
enum class Products : uint8_t { kF32, kBF16 };

// Bytes of W [out, in] in panels, for either kind of products.
size_t packed_weight_bytes(DType dtype, size_t out_features, size_t in_features);

// Row-major W [out, in] -> panels (panel.hpp) at `weight.storage`.
void pack_weight(const std::byte* source, const Weight& weight, Products products,
                 ThreadPool& pool);

// x [rows, in] f32, y [rows, out] f32, bias [1, out] f32 or null; not overlapping; `products` as W
// was packed for. Each y[r, n] is one chain of fused adds over k, in an order that depends on
// nothing but `products`, to which the bias is added last.
void linear(const Tensor& x, const Weight& weight, Products products, const Tensor* bias,
            const Tensor& y, Workspace& workspace, ThreadPool& pool);

}  // namespace cogserve::cpu
