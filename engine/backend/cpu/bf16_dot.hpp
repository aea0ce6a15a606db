// Products of bf16 by bf16 with f32 sums on AVX-512's instruction for them (VDPBF16PS: two
// multiply-adds a lane). Highway 1.0, Debian 12's, has no operation for it, and what is compiled for
// its targets cannot be inlined into code for this one: hence a kernel beside panel_kernel-inl.hpp.
#pragma once

#include <cstddef>

#include "engine/backend/cpu/panel.hpp"

namespace cogserve::cpu {

// Rows of one product, at most.
inline constexpr size_t kMostDotRows = 16;
// Rows of each tile where there are several: with 12, two panels share each read of x.
constexpr size_t dot_tile_rows(size_t rows) { return rows <= kMostDotRows ? kMostDotRows : 12; }

// Whether this processor has the instruction.
bool has_bf16_dot();

// 1 to kMostDotRows rows, interleaved: the sums of multiply_tile in panel_kernel-inl.hpp, bit for
// bit, but that subnormal numbers count as zero. Precondition: has_bf16_dot().
void multiply_dot_tile(size_t rows, const PairProduct& product);

}  // namespace cogserve::cpu
