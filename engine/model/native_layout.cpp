#include "engine/model/native_layout.hpp"

#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "engine/model/quantize.hpp"

namespace cogserve {
namespace {

OutputTensor output(std::string name, std::string_view dtype, std::vector<int64_t> shape,
                    int64_t element_bytes) {
  OutputTensor tensor{std::move(name), std::string(dtype), std::move(shape), element_bytes};
  for (const int64_t dim : tensor.shape) tensor.bytes *= dim;
  return tensor;
}

std::string_view spelling(DType dtype) {
  return dtype == DType::kF32 ? "F32" : dtype == DType::kF16 ? "F16" : "BF16";
}

}  // namespace

std::vector<OutputTensor> native_tensors(const ModelTensor& tensor, DType dtype) {
  const std::string scale = tensor.name + "_scale";
  if (tensor.format == WeightFormat::kDense) {
    return {output(tensor.name, spelling(dtype), tensor.shape,
                   static_cast<int64_t>(dtype_size(dtype)))};
  }
  const int64_t out = tensor.shape[0];
  const int64_t in = tensor.shape[1];
  const HostWeight form = weight_form(tensor.format, dtype, out, in);
  if (tensor.format == WeightFormat::kInt4) {
    return {output(tensor.name, "U8", {out, in / 2}, 1),
            output(scale, "F16", {out, form.groups()}, 2)};
  }
  return {output(tensor.name, "I8", {out, in}, 1), output(scale, "F32", {out, 1}, 4)};
}

std::string safetensors_header(const std::vector<OutputTensor>& tensors) {
  // "pt" is what readers of published checkpoints expect to find.
  nlohmann::json header = {{"__metadata__", {{"format", "pt"}}}};
  int64_t offset = 0;
  for (const OutputTensor& tensor : tensors) {
    header[tensor.name] = {{"dtype", tensor.dtype},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, offset + tensor.bytes}}};
    offset += tensor.bytes;
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  std::string length(8, '\0');
  for (size_t i = 0; i < 8; ++i) length[i] = static_cast<char>(text.size() >> (8 * i));
  return length + text;
}

}  // namespace cogserve
