// The layout of a quantised matrix: panels of 16 output features (panel.hpp), each cut along its
// inputs into blocks, and rows of x cut and quantised in the same way.
//
// A block is at most 128 inputs of one group of the weight, so that one scale holds for all of its
// codes. It has room for `depth` inputs, a multiple of 32; where there is no such input, x is zero.
// In memory a panel is one forward stream of records, block after block:
//   16 scales, f16 or f32; 16 i32 zeros where the weight has them; the codes.
// int4: for each 8 inputs one 32-bit word for each output, byte i holding input i in the low nibble
// and input 4 + i in the high one. int8: for each 4 inputs the 4 bytes of each output.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "engine/backend/cpu/panel.hpp"
#include "engine/base/host_weight.hpp"

namespace cogserve::cpu {

inline constexpr size_t kBlockInputs = 128;
// Inputs between two widenings of 16-bit sums (see quantized_kernel-inl.hpp).
inline constexpr size_t kStepInputs = 32;

struct QuantizedLayout {
  QuantizedLayout(WeightFormat format, size_t out_features, size_t in_features, size_t group_size,
                  DType scale_dtype, bool has_zeros)
      : in(in_features),
        group(std::min(group_size, in_features)),
        panels(panel_count(out_features)),
        blocks_per_group(ceil_div(group, kBlockInputs)),
        depth(ceil_div(std::min(group, kBlockInputs), kStepInputs) * kStepInputs),
        zeros_at(kPanelWidth * dtype_size(scale_dtype)),
        codes_at(zeros_at + (has_zeros ? kPanelWidth * sizeof(int32_t) : 0)),
        record_bytes(codes_at + depth * kPanelWidth / (format == WeightFormat::kInt4 ? 2 : 1)) {
    const size_t groups = ceil_div(in, group);
    const size_t last = in - (groups - 1) * group;
    blocks = (groups - 1) * blocks_per_group + ceil_div(last, kBlockInputs);
  }

  size_t group_of(size_t block) const { return block / blocks_per_group; }
  size_t begin(size_t block) const {
    return group_of(block) * group + block % blocks_per_group * kBlockInputs;
  }
  size_t size(size_t block) const {
    const size_t group_end = std::min((group_of(block) + 1) * group, in);
    return std::min(kBlockInputs, group_end - begin(block));
  }

  size_t bytes() const { return panels * blocks * record_bytes; }

  size_t in;
  size_t group;  // inputs that share a scale of the weight
  size_t panels;
  size_t blocks_per_group;
  size_t blocks;  // of a panel
  size_t depth;
  size_t zeros_at;  // in a record
  size_t codes_at;
  size_t record_bytes;
};

}  // namespace cogserve::cpu
