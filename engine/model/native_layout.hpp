// The layout in which `cogserve quantize` writes a checkpoint: what each tensor of a model becomes,
// and the safetensors headers around it. Pure functions.
//
// A quantised matrix P.weight [N, K] becomes two tensors:
//   int4: P.weight U8 [N, K / 2], the even input in the low nibble, code 8 is zero;
//         P.weight_scale F16 [N, ceil(K / 128)], W = (code - 8) * scale
//   int8: P.weight I8 [N, K]; P.weight_scale F32 [N, 1], W = code * scale
// All others stay as they are.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/base/dtype.hpp"
#include "engine/model/weights.hpp"

namespace cogserve {

struct OutputTensor {
  std::string name;
  std::string dtype;  // in the spelling of safetensors
  std::vector<int64_t> shape;
  int64_t bytes = 0;
};

// One or two tensors, in the order of the file; `dtype` is that of the dense one.
std::vector<OutputTensor> native_tensors(const ModelTensor& tensor, DType dtype);

// Everything before the data of the file that holds these tensors in this order: the length of the
// header, and the header, padded to a multiple of 8 bytes.
std::string safetensors_header(const std::vector<OutputTensor>& tensors);

}  // namespace cogserve
