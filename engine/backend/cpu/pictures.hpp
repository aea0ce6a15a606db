// Rearrangements around the vision tower: pure copies.
#pragma once

#include "engine/backend/cpu/thread_pool.hpp"
#include "engine/base/tensor.hpp"

namespace cogserve::cpu {

// See Backend::extract_patches and Backend::merge_2x2.
void extract_patches(const Tensor& pixels, int size, int patch, const Tensor& y, ThreadPool& pool);
void merge_2x2(const Tensor& x, int grid, const Tensor& y, ThreadPool& pool);

}  // namespace cogserve::cpu
