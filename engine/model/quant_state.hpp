// The JSON that bitsandbytes stores beside each matrix of four bits. A pure function.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/base/dtype.hpp"

namespace cogserve {

// Scales that are quantised themselves: scale = map[code] * absmax + offset.
struct NestedState {
  int64_t blocksize = 0;  // scales that share an absmax
  float offset = 0.0f;
};

struct QuantState {
  std::string codebook;   // "fp4" or "nf4"
  int64_t blocksize = 0;  // flat elements that share a scale
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::optional<NestedState> nested;
};

inline constexpr size_t kMaxQuantState = size_t{1} << 16;

// INVALID_ARGUMENT, without a reason: the caller knows the tensor.
absl::StatusOr<QuantState> parse_quant_state(std::string_view text);

}  // namespace cogserve
