// y = x W^T (+ bias), W in bf16, f16, f32 or a codebook's f32 values, sums in f32. Work: 2 * rows *
// in * out FLOP, and at few rows the bytes of W are all that counts.
#pragma once

#include <cstddef>

#include "engine/backend/cpu/thread_pool.hpp"
#include "engine/backend/cpu/workspace.hpp"
#include "engine/backend/weight.hpp"
#include "engine/base/tensor.hpp"

namespace cogserve::cpu {

// Bytes of W [out, in] in panels.
size_t packed_weight_bytes(DType dtype, size_t out_features, size_t in_features);

// Row-major W [out, in] -> panels (panel.hpp) at `weight.storage`.
void pack_weight(const std::byte* source, const Weight& weight, ThreadPool& pool);

// x [rows, in] f32, y [rows, out] f32, bias [1, out] f32 or null; not overlapping. Each y[r, n] is
// one chain of fused adds over k = 0 .. in - 1, to which the bias is added last.
void linear(const Tensor& x, const Weight& weight, const Tensor* bias, const Tensor& y,
            Workspace& workspace, ThreadPool& pool);

}  // namespace cogserve::cpu
