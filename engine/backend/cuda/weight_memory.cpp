#include "engine/backend/cuda/weight_memory.hpp"

#include "engine/backend/cuda/quantized_layout.hpp"

namespace cogserve::cuda {

size_t weight_bytes(const HostWeight& form) {
  if (form.format != WeightFormat::kDense) return layout_of(form).bytes();
  return form.out_features * form.in_features * kActivationBytes;
}

size_t second_copy_offset(int64_t count) {
  constexpr size_t kAlignment = 256;
  return (count * sizeof(float) + kAlignment - 1) / kAlignment * kAlignment;
}

size_t vector_bytes(int64_t count) { return second_copy_offset(count) + count * kActivationBytes; }

}  // namespace cogserve::cuda
