// The layout of a matrix that is multiplied: panels of 16 output features.
//
// A weight W [out, in] is stored as ceil(out / 16) panels; a panel holds, for each k in ascending
// order, the 16 values W[16 p .. 16 p + 15, k], zero where there is no such output. Reading a
// panel is one forward stream, and each output stays in its own vector lane for all of k.
//
// f32 and f16 keep the 16 values in order. bf16 interleaves the two halves: 0, 8, 1, 9, ... 7, 15,
// so that one 32-bit word holds columns j and j + 8 and no shuffle is needed to widen them. Where
// bf16 is multiplied by bf16, a word holds two neighbouring k of one output instead.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "engine/base/dtype.hpp"
#include "engine/base/tensor.hpp"

namespace cogserve::cpu {

inline constexpr size_t kPanelWidth = 16;

constexpr size_t ceil_div(size_t a, size_t b) { return (a + b - 1) / b; }
constexpr size_t panel_count(size_t columns) { return ceil_div(columns, kPanelWidth); }

// Where column `column` of a panel is stored within the 16 values of one k.
constexpr size_t panel_slot(DType dtype, size_t column) {
  if (dtype != DType::kBF16) return column;
  return column < 8 ? 2 * column : 2 * (column - 8) + 1;
}

// Inputs 2 k (in the low half) and 2 k + 1 of one output, or of a row of x; zero beyond the last.
struct BFloat16Pair {
  uint32_t bits;
};
constexpr size_t pair_count(size_t inputs) { return ceil_div(inputs, 2); }

// c[r, j] += a[r, 0] * b[0, j] + a[r, 1] * b[1, j] + ... for some rows and panels: where the
// operands are. Strides count elements.
template <class B, class A = float>
struct Product {
  const A* a;
  size_t a_row_stride;  // 0: interleaved, the elements of all rows side by side for each k
  const B* b;           // 16 values for each k, one k after the other
  size_t b_panel_stride;
  float* c;
  size_t c_row_stride;
  size_t c_panel_stride;
  size_t panels;
  size_t depth;
  bool accumulate;  // add to what is in c, else start from zero

  Product from_panel(size_t panel) const {
    Product rest = *this;
    rest.b += panel * b_panel_stride;
    rest.c += panel * c_panel_stride;
    rest.panels -= panel;
    return rest;
  }
};
using PairProduct = Product<BFloat16Pair, BFloat16Pair>;

// Rows [0, rows) cut into tiles of at most `most` rows, as equal as possible.
struct RowTiles {
  RowTiles(size_t row_count, size_t most) : rows(row_count), count(ceil_div(row_count, most)) {}
  size_t begin(size_t tile) const { return tile * (rows / count) + std::min(tile, rows % count); }
  size_t size(size_t tile) const { return begin(tile + 1) - begin(tile); }

  size_t rows;
  size_t count;
};

// Panels of one task: at most `most`, fewer where there would be too few tasks for the threads. For
// each group of panels there is a task for each of `tile_groups`.
inline size_t panels_per_task(size_t panels, size_t tile_groups, size_t most, int threads) {
  const auto enough = 4 * static_cast<size_t>(threads);
  while (most > 1 && ceil_div(panels, most) * tile_groups < enough) most /= 2;
  return most;
}

// One row's sums of one panel, + bias unless that is null -> y, without the columns that y has not.
inline void store_panel(const float* sums, const float* bias, size_t panel, const Tensor& y,
                        size_t row) {
  const size_t column = panel * kPanelWidth;
  const size_t columns = std::min<size_t>(kPanelWidth, y.cols - column);
  float* to = y.row<float>(row) + column;
  for (size_t n = 0; n < columns; ++n) {
    to[n] = bias == nullptr ? sums[n] : sums[n] + bias[column + n];
  }
}

}  // namespace cogserve::cpu
