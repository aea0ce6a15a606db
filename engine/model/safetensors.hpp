// The header of a safetensors file: eight bytes of length, a JSON object, then the tensors.
//
// Strict on purpose: files come from strangers. Nothing is believed before it is checked against
// the size of the file, and the tensors must cover it exactly, in any order. A pure function.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/base/dtype.hpp"

namespace cogserve {

inline constexpr uint64_t kMaxHeaderBytes = uint64_t{16} << 20;
inline constexpr size_t kMaxTensors = 65536;
inline constexpr size_t kMaxRank = 8;
inline constexpr size_t kMaxTensorName = 256;

// The element types that are read: floats, and the integers of quantised matrices.
enum class StoredType : uint8_t { kF32, kBF16, kF16, kI32, kI8, kU8 };

size_t type_size(StoredType type);
std::string_view type_name(StoredType type);        // as in the file: "BF16"
std::optional<DType> float_dtype(StoredType type);  // none for integers

struct SafetensorsEntry {
  std::string name;
  StoredType type = StoredType::kF32;
  std::vector<int64_t> shape;
  size_t offset = 0;  // from the start of the file
  size_t bytes = 0;
};

// The tensors of `file` (the whole file; only its header is touched), ascending by offset.
// `path` is for messages. DATA_LOSS / CHECKPOINT_TRUNCATED for a file shorter than it says;
// INVALID_ARGUMENT / CHECKPOINT_HEADER, CHECKPOINT_DTYPE, CHECKPOINT_OVERLAP or CHECKPOINT_GAP.
absl::StatusOr<std::vector<SafetensorsEntry>> read_safetensors_header(
    std::span<const std::byte> file, const std::string& path);

}  // namespace cogserve
