// y = x W^T (+ bias) with W in int4 or int8 and x rounded to int8 on the way, each in blocks of at
// most 128 inputs with a scale of their own.
//
// Against W of HostWeight's definition, an element of y is off by at most
// sum_k |W[n, k]| * max |x of k's block| / 254 for the rounding of x, and by the rounding of W to
// its dtype, which is not done here. Work: 2 * rows * in * out operations on bytes; at few rows the
// bytes of W (0.52 an element for int4 in groups of 128 with f16 scales) are all that counts.
#pragma once

#include <cstddef>

#include "engine/backend/cpu/thread_pool.hpp"
#include "engine/backend/cpu/workspace.hpp"
#include "engine/backend/weight.hpp"
#include "engine/base/host_weight.hpp"
#include "engine/base/tensor.hpp"

namespace cogserve::cpu {

// Bytes of a kInt4 or kInt8 weight in records (quantized_panel.hpp).
size_t quantized_weight_bytes(const HostWeight& form);

// HostWeight -> records at `weight.storage`.
void pack_quantized_weight(const HostWeight& source, const Weight& weight, ThreadPool& pool);

// As cpu::linear. A row's bits depend on nothing but the row, as there.
void quantized_linear(const Tensor& x, const Weight& weight, const Tensor* bias, const Tensor& y,
                      Workspace& workspace, ThreadPool& pool);

}  // namespace cogserve::cpu
