// Quantised matrices as checkpoints store them: one Linear's weight in several tensors.
//
// Looking for a matrix checks the types and shapes of all its tensors against the model's and reads
// only what describes it; unpacking brings its content into HostWeight's order. README.md beside
// this file has the layouts. Used by the start-up code, one matrix at a time.
#pragma once

#include <cstddef>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/base/host_weight.hpp"
#include "engine/config.hpp"
#include "engine/model/safetensors.hpp"

namespace cogserve {

// One tensor in a mapped file.
struct StoredPart {
  SafetensorsEntry entry;
  std::string file;  // for messages
  const std::byte* data = nullptr;
};

// The tensor of that name, or none.
using FindPart = std::function<std::optional<StoredPart>(const std::string& name)>;

// Points into its own arrays or into the file.
struct UnpackedWeight {
  UnpackedWeight() = default;
  UnpackedWeight(UnpackedWeight&&) = default;
  UnpackedWeight& operator=(UnpackedWeight&&) = default;

  HostWeight weight;
  std::vector<std::byte> codes;
  std::vector<float> scales;
  std::vector<uint8_t> zeros;
};

class PackedMatrix {
 public:
  virtual ~PackedMatrix() = default;

  // Everything but the arrays.
  const HostWeight& description() const { return description_; }
  // "bitsandbytes nf4, nested scales": for the start-up banner.
  const std::string& layout() const { return layout_; }
  // All its tensors, that of the codes first.
  const std::vector<StoredPart>& parts() const { return parts_; }

  // Reads the parts. INVALID_ARGUMENT / CHECKPOINT_QUANT_VALUE for numbers that are none, and
  // CHECKPOINT_QUANT_LABEL for those that contradict config.json.
  virtual absl::StatusOr<UnpackedWeight> unpack() const = 0;

 protected:
  HostWeight description_;
  std::string layout_;
  std::vector<StoredPart> parts_;
};

// What is looked for: the weight [out, in] of the Linear called `stem`.
struct MatrixSearch {
  std::string stem;
  int64_t out_features = 0;
  int64_t in_features = 0;
  const QuantizationConfig& label;
  const FindPart& find;
  std::string file;  // where a part of it was found

  // stem + suffix, of one of `types` and of `shape`. NOT_FOUND / CHECKPOINT_MISSING_TENSOR,
  // INVALID_ARGUMENT / CHECKPOINT_DTYPE or CHECKPOINT_SHAPE.
  absl::StatusOr<StoredPart> require(std::string_view suffix,
                                     std::initializer_list<StoredType> types,
                                     const std::vector<int64_t>& shape) const;
  absl::Status missing(const std::string& name, const std::string& expected) const;
};

// The matrix if it is stored in a quantised layout, null if it is dense or not there at all. Beside
// the errors of MatrixSearch, INVALID_ARGUMENT / CHECKPOINT_QUANT_LAYOUT (several layouts at once),
// CHECKPOINT_QUANT_LABEL (another than config.json says), CHECKPOINT_QUANT_STATE (malformed
// description) or CHECKPOINT_QUANT_UNSUPPORTED.
absl::StatusOr<std::unique_ptr<PackedMatrix>> find_packed_matrix(const std::string& stem,
                                                                 int64_t out_features,
                                                                 int64_t in_features,
                                                                 const QuantizationConfig& label,
                                                                 const FindPart& find);

// "FILE: tensor 'NAME': WHAT", INVALID_ARGUMENT.
absl::Status refuse_part(std::string_view reason, const StoredPart& part, std::string_view what);

// Element `index` of a part of floats.
float part_value(const StoredPart& part, int64_t index);

// Part of floats -> f32 in the same order; CHECKPOINT_QUANT_VALUE if one is not finite.
absl::StatusOr<std::vector<float>> finite_values(const StoredPart& part);

}  // namespace cogserve
