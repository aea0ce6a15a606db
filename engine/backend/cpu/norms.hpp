// Root-mean-square and layer norms. Each row is read twice (three times for the variance) from
// the nearest cache and written once.
#pragma once

#include "engine/backend/cpu/thread_pool.hpp"
#include "engine/base/tensor.hpp"

namespace cogserve::cpu {

// y = x / sqrt(mean(x^2) + eps) * weight; x, y [rows, n] f32, weight [1, n] f32. y may be x.
void rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& y, ThreadPool& pool);

// y = (x - mean) / sqrt(var + eps) * weight + bias, or y += that. y may be x when it does not add.
enum class NormOutput { kStore, kAdd };
void layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, float eps,
                NormOutput output, const Tensor& y, ThreadPool& pool);

}  // namespace cogserve::cpu
