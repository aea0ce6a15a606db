#include "engine/backend/cpu/pictures.hpp"

#include <cstring>

#include "engine/backend/cpu/parallel_rows.hpp"

namespace cogserve::cpu {

void extract_patches(const Tensor& pixels, int size, int patch, const Tensor& y, ThreadPool& pool) {
  const size_t grid = size / patch;
  parallel_rows(pool, y.rows, y.cols, [&](size_t begin, size_t end) {
    for (size_t row = begin; row < end; ++row) {
      float* to = y.row<float>(row);
      const size_t top = row / grid * patch;
      const size_t left = row % grid * patch;
      for (int channel = 0; channel < 3; ++channel) {
        const float* plane = pixels.row<float>(channel);
        for (int line = 0; line < patch; ++line) {
          std::memcpy(to, plane + (top + line) * size + left, patch * sizeof(float));
          to += patch;
        }
      }
    }
  });
}

void merge_2x2(const Tensor& x, int grid, const Tensor& y, ThreadPool& pool) {
  const size_t cells = grid / 2;
  const size_t pair = 2 * x.cols;  // two neighbours of one grid row
  parallel_rows(pool, y.rows, y.cols, [&](size_t begin, size_t end) {
    for (size_t row = begin; row < end; ++row) {
      const size_t first = row / cells * 2 * grid + row % cells * 2;
      for (size_t below = 0; below < 2; ++below) {
        for (size_t right = 0; right < 2; ++right) {
          std::memcpy(y.row<float>(row) + below * pair + right * x.cols,
                      x.row<float>(first + below * grid + right), x.cols * sizeof(float));
        }
      }
    }
  });
}

}  // namespace cogserve::cpu
