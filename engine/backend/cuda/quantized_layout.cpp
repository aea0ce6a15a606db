#include "engine/backend/cuda/quantized_layout.hpp"

#include <algorithm>
#include <span>

namespace cogserve::cuda {
namespace {

constexpr int kLanes = 32;

size_t aligned(size_t bytes) {
  constexpr size_t kAlignment = 256;
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

bool is_half(float value) { return to_float(to_float16(value)) == value; }

}  // namespace

size_t QuantizedLayout::code_bytes() const {
  const int words = kLanes * kTileSteps * words_of_a_step(format);
  return static_cast<size_t>(tile_rows() * tiles_of_a_row()) * words * sizeof(uint32_t);
}

size_t QuantizedLayout::zeros_at() const {
  const size_t scales = static_cast<size_t>(tile_rows() * groups()) * kTileOuts;
  return scales_at() + aligned(scales * (half_scales ? 2 : 4));
}

size_t QuantizedLayout::bytes() const {
  const size_t zeros = has_zeros ? static_cast<size_t>(tile_rows() * groups()) * kTileOuts : 0;
  return zeros_at() + aligned(zeros);
}

QuantizedLayout layout_of(const HostWeight& weight) {
  const std::span<const float> scales(
      weight.scales, weight.scales == nullptr ? 0 : weight.out_features * weight.groups());
  return {
      .format = weight.format,
      .out = weight.out_features,
      .in = weight.in_features,
      .group_size = weight.group_size,
      .half_scales = weight.format == WeightFormat::kInt4 && std::ranges::all_of(scales, is_half),
      .has_zeros = weight.zeros != nullptr};
}

QuantizedMatrix::QuantizedMatrix(const QuantizedLayout& of, const void* storage,
                                 const std::array<float, 16>& values)
    : layout(of),
      codes(static_cast<const uint32_t*>(storage)),
      scales(static_cast<const std::byte*>(storage) + of.scales_at()),
      zeros(of.has_zeros ? static_cast<const uint8_t*>(storage) + of.zeros_at() : nullptr),
      codebook(values) {}

}  // namespace cogserve::cuda
