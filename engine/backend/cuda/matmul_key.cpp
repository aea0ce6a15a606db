#include "engine/backend/cuda/matmul_key.hpp"

#include <bit>

namespace cogserve::cuda {

int64_t row_class(int64_t rows) {
  constexpr int64_t kStep = 1024;
  if (rows > kStep) return (rows + kStep - 1) / kStep * kStep;
  return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(rows)));
}

MatmulKey matmul_key(const MatmulShape& shape) {
  return {row_class(shape.rows), shape.in,      shape.out,  shape.x_stride,
          shape.y_stride,        shape.y_dtype, shape.bias, shape.alignment};
}

int common_alignment(uintptr_t x, uintptr_t w, uintptr_t y, int64_t x_step, int64_t w_step,
                     int64_t y_step) {
  const uintptr_t all = x | w | y | static_cast<uintptr_t>(x_step) |
                        static_cast<uintptr_t>(w_step) | static_cast<uintptr_t>(y_step) | 16u;
  return 1 << std::countr_zero(all);
}

}  // namespace cogserve::cuda
