#include "engine/backend/cuda/weight_memory.hpp"

#include <utility>

#include "engine/backend/cuda/quantized_layout.hpp"
#include "engine/base/check.hpp"

namespace cogserve::cuda {

size_t weight_bytes(const HostWeight& form) {
  if (form.format != WeightFormat::kDense) return layout_of(form).bytes();
  return align_weight(form.out_features * form.in_features * kActivationBytes);
}

size_t second_copy_offset(int64_t count) { return align_weight(count * sizeof(float)); }

size_t vector_bytes(int64_t count) {
  return second_copy_offset(count) + align_weight(count * kActivationBytes);
}

// Tables are counted as they are, without the gaps that alignment leaves behind them. A model has a
// handful.
size_t WeightArena::bytes_for(size_t weights) { return weights + 64 * kWeightAlignment; }

void WeightArena::open(Buffer memory) {
  check(memory_.data() == nullptr, "memory for weights is reserved once");
  memory_ = std::move(memory);
}

void* WeightArena::take(size_t bytes) {
  if (align_weight(bytes) > memory_.bytes() - used_) return nullptr;
  void* const place = static_cast<std::byte*>(memory_.data()) + used_;
  used_ += align_weight(bytes);
  return place;
}

}  // namespace cogserve::cuda
