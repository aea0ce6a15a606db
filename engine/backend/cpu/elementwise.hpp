// Copies, sums and activations: one pass over the rows, bound by memory.
#pragma once

#include <cstdint>
#include <span>

#include "engine/backend/cpu/thread_pool.hpp"
#include "engine/base/tensor.hpp"

namespace cogserve::cpu {

// y[r, :] = table[ids[r], :]; ids < 0 leave their row untouched. table f32, bf16 or f16; y f32.
void embed(const Tensor& table, std::span<const int32_t> ids, const Tensor& y, ThreadPool& pool);

// y[r, :] = x[rows[r], :], both f32.
void gather_rows(const Tensor& x, std::span<const int32_t> rows, const Tensor& y, ThreadPool& pool);

// y = x; x f32, bf16 or f16, y f32.
void copy(const Tensor& x, const Tensor& y, ThreadPool& pool);

// y += x
void add(const Tensor& x, const Tensor& y, ThreadPool& pool);

// y = gate / (1 + e^-gate) * up; y may be gate or up.
void silu_mul(const Tensor& gate, const Tensor& up, const Tensor& y, ThreadPool& pool);

// x = x * Phi(x) in place, Phi the normal distribution function (the erf form of GELU), accurate
// to some units in the last place for every x, far negative ones too.
void gelu(const Tensor& x, ThreadPool& pool);

}  // namespace cogserve::cpu
