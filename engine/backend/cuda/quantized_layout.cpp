#include "engine/backend/cuda/quantized_layout.hpp"

#include "engine/backend/cuda/weight_memory.hpp"

namespace cogserve::cuda {
namespace {

constexpr int kLanes = 32;

}  // namespace

size_t QuantizedLayout::code_bytes() const {
  const int words = kLanes * kTileSteps * words_of_a_step(format);
  return static_cast<size_t>(tile_rows() * tiles_of_a_row()) * words * sizeof(uint32_t);
}

size_t QuantizedLayout::zeros_at() const {
  const size_t scales = static_cast<size_t>(tile_rows() * groups()) * kTileOuts;
  return scales_at() + align_weight(scales * (half_scales ? 2 : 4));
}

size_t QuantizedLayout::bytes() const {
  const size_t zeros = has_zeros ? static_cast<size_t>(tile_rows() * groups()) * kTileOuts : 0;
  return zeros_at() + align_weight(zeros);
}

QuantizedLayout layout_of(const HostWeight& weight) {
  return {.format = weight.format,
          .out = weight.out_features,
          .in = weight.in_features,
          .group_size = weight.group_size,
          .half_scales = weight.scale_dtype == DType::kF16,
          .has_zeros = weight.has_zeros};
}

QuantizedMatrix::QuantizedMatrix(const QuantizedLayout& of, const void* storage,
                                 const std::array<float, 16>& values)
    : layout(of),
      codes(static_cast<const uint32_t*>(storage)),
      scales(static_cast<const std::byte*>(storage) + of.scales_at()),
      zeros(of.has_zeros ? static_cast<const uint8_t*>(storage) + of.zeros_at() : nullptr),
      codebook(values) {}

}  // namespace cogserve::cuda
