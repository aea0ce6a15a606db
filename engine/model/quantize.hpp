// Dense matrices into the engine's own quantised formats, without any data beyond the matrix.
//
// int4: symmetric, groups of 128 inputs, scales that f16 holds. Each group's scale is the best of a
// small grid by squared error: the largest element may land on code 7 or, with a scale of the
// opposite sign where need be, on code -8, and may be clipped. int8: symmetric, one f32 scale for
// each row.
//
// A pure function of the matrix: the number of threads changes nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/base/host_weight.hpp"

namespace cogserve {

inline constexpr int64_t kInt4GroupSize = 128;

// Owns the arrays of a kInt4 or kInt8 HostWeight.
class QuantizedMatrix {
 public:
  // `tensor` is [out, in...]; `name` is for messages; `threads` 0 = one for each core.
  // INVALID_ARGUMENT: WEIGHT_NOT_FINITE for a NaN or an infinity, WEIGHT_RANGE for a group whose
  // scale f16 does not hold, WEIGHT_FORMAT for int4 of an odd number of inputs.
  static absl::StatusOr<QuantizedMatrix> quantize(const HostTensor& tensor, std::string_view name,
                                                  WeightFormat format, int threads);

  // Valid while this object lives.
  HostWeight weight() const;

 private:
  QuantizedMatrix(WeightFormat format, int64_t out_features, int64_t in_features);

  // `values` is the row, with zeros up to whole groups; finite.
  void quantize_row(int64_t row, const float* values);

  HostWeight form_;  // without its arrays
  std::vector<std::byte> codes_;
  std::vector<float> scales_;
};

// Whether `stored`, kInt4 or kInt8, is what QuantizedMatrix::quantize made of `dense`: codes and
// int8 scales must be equal, and an int4 scale one of those that are tried for its group. Which of
// them is best is the search that costs most, and another would nearly always round to other codes,
// but in groups of almost only zeros. False if `dense` is refused by `quantize`.
bool is_quantized_from(const HostTensor& dense, const HostWeight& stored, int threads);

// What a quantised [out, in] matrix looks like, without arrays; kDense: as `dtype`.
HostWeight weight_form(WeightFormat format, DType dtype, int64_t out_features, int64_t in_features);

// sum (W - Q)^2 and sum W^2 over all elements, in f64.
struct SquaredError {
  double error = 0.0;
  double total = 0.0;

  double relative() const;  // sqrt(error / total); 0 for an all-zero matrix
};
SquaredError squared_error(const HostTensor& dense, const HostWeight& quantized, int threads);

}  // namespace cogserve
