#include "engine/base/host_weight.hpp"

#include <utility>

namespace cogserve {
namespace {

float round_to(DType dtype, float value) {
  if (dtype == DType::kBF16) return to_float(to_bfloat16(value));
  if (dtype == DType::kF16) return to_float(to_float16(value));
  return value;
}

// Before its scale, which is that of group `group`.
float code_value(const HostWeight& weight, int64_t row, int64_t col, int64_t group) {
  if (weight.format == WeightFormat::kInt8) {
    return static_cast<int8_t>(weight.codes[row * weight.in_features + col]);
  }
  const unsigned code = nibble_code(weight, row * weight.in_features + col);
  if (weight.format == WeightFormat::kCodebook4) return weight.codebook[code];
  const int zero = weight.has_zeros ? weight.zeros[group] : 8;
  return static_cast<float>(static_cast<int>(code) - zero);
}

}  // namespace

HostWeight dense_weight(HostTensor tensor) {
  HostWeight weight;
  weight.out_features = tensor.shape[0];
  weight.in_features = tensor.elements() / tensor.shape[0];
  weight.dtype = tensor.dtype;
  weight.dense = std::move(tensor);
  return weight;
}

float weight_value(const HostWeight& weight, int64_t row, int64_t col) {
  if (weight.format == WeightFormat::kDense) {
    return host_value(weight.dense, row * weight.in_features + col);
  }
  const int64_t group = row * weight.groups() + col / weight.group_size;
  return round_to(weight.dtype, code_value(weight, row, col, group) * weight.scales[group]);
}

}  // namespace cogserve
