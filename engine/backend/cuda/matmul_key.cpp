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

int common_alignment(std::initializer_list<uintptr_t> addresses,
                     std::initializer_list<int64_t> steps) {
  uintptr_t all = 16;
  for (const uintptr_t address : addresses) all |= address;
  for (const int64_t step : steps) all |= static_cast<uintptr_t>(step);
  return 1 << std::countr_zero(all);
}

}  // namespace cogserve::cuda
