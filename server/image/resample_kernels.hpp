// The two inner loops of the resampler, compiled for several instruction sets and chosen at run
// time. Sums are exact 32-bit integers, so every instruction set gives the same bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace cogserve::image {

// Fractional bits of a weight: 32 less 8 for the sample and 2 for overshoot of the sum.
inline constexpr int kWeightBits = 32 - 8 - 2;

// Which inputs make each output along one axis.
struct ResampleAxis {
  std::vector<int> first;             // [outputs] index of the first input
  std::vector<int> count;             // [outputs] number of inputs
  std::vector<std::int32_t> weights;  // [outputs, stride] fixed point, kWeightBits
  std::size_t stride = 0;

  int outputs() const { return static_cast<int>(first.size()); }
  const std::int32_t* weights_of(int output) const {
    return weights.data() + static_cast<std::size_t>(output) * stride;
  }
};

// One row along the width: `source` holds RGB triples and one readable byte behind the last;
// `target` receives axis.outputs() triples. 3 multiply-adds for each input of each output.
void resample_row(const std::uint8_t* source, const ResampleAxis& axis, std::uint8_t* target);

// One row down the height: target[i] = sum over j of weights[j] * source[j * pitch + i], for i in
// [0, bytes).
void resample_column(const std::uint8_t* source, std::size_t pitch, const std::int32_t* weights,
                     int count, std::size_t bytes, std::uint8_t* target);

}  // namespace cogserve::image
