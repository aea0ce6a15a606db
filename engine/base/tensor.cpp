#include "engine/base/tensor.hpp"

#include <cstring>

namespace cogserve {

float host_value(const HostTensor& tensor, int64_t index) {
  const std::byte* at = tensor.data + index * static_cast<int64_t>(dtype_size(tensor.dtype));
  if (tensor.dtype == DType::kF32) {
    float value;
    std::memcpy(&value, at, sizeof value);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, at, sizeof bits);
  return tensor.dtype == DType::kBF16 ? to_float(BFloat16{bits}) : to_float(Float16{bits});
}

std::string shape_string(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(shape[i]);
  }
  return text + "]";
}

}  // namespace cogserve
