#include "engine/model/bitsandbytes_matrix.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/base/error.hpp"
#include "engine/model/quant_state.hpp"

namespace cogserve {
namespace {

constexpr int64_t kNestedCodes = 256;

constexpr std::array<float, 16> kNf4 = {-1.0f,        -0.6961928f,  -0.52507305f, -0.39491749f,
                                        -0.28444138f, -0.18477343f, -0.09105004f, 0.0f,
                                        0.0795803f,   0.1609302f,   0.2461123f,   0.33791524f,
                                        0.44070983f,  0.562617f,    0.72295684f,  1.0f};
// Bit 3 is the sign.
constexpr std::array<float, 16> kFp4 = {
    0.0f,  0.0052083333f,  0.6666667f,  1.0f,  0.3333333f,  0.5f,  0.1666667f,  0.25f,
    -0.0f, -0.0052083333f, -0.6666667f, -1.0f, -0.3333333f, -0.5f, -0.1666667f, -0.25f};

bool is_known(const std::array<float, 16>& codebook, const std::string& name) {
  const std::array<float, 16>& known = name == "nf4" ? kNf4 : kFp4;
  return std::equal(codebook.begin(), codebook.end(), known.begin(),
                    [](float a, float b) { return std::abs(a - b) < 1e-6f; });
}

enum Part { kCodes, kState, kCodebook, kScales, kNestedScales, kNestedCodebook };

// Parts in the order of Part; the last two only where scales are nested.
class BitsandbytesMatrix : public PackedMatrix {
 public:
  BitsandbytesMatrix(HostWeight description, std::optional<NestedState> nested, std::string layout,
                     std::vector<StoredPart> parts)
      : nested_(nested) {
    description_ = std::move(description);
    layout_ = std::move(layout);
    parts_ = std::move(parts);
  }

  absl::StatusOr<UnpackedWeight> unpack() const override {
    absl::StatusOr<std::vector<float>> scales =
        nested_ ? nested_scales() : finite_values(parts_[kScales]);
    if (!scales.ok()) return scales.status();
    UnpackedWeight unpacked;
    unpacked.scales = *std::move(scales);
    // Their even element is in the high nibble.
    const StoredPart& codes = parts_[kCodes];
    unpacked.codes.resize(codes.entry.bytes);
    std::transform(codes.data, codes.data + codes.entry.bytes, unpacked.codes.begin(),
                   [](std::byte pair) { return pair << 4 | pair >> 4; });
    unpacked.weight = description_;
    unpacked.weight.codes = unpacked.codes.data();
    unpacked.weight.scales = unpacked.scales.data();
    return unpacked;
  }

 private:
  // Product and sum are rounded one after the other, as upstream does.
  absl::StatusOr<std::vector<float>> nested_scales() const {
    const StoredPart& codes = parts_[kScales];
    std::vector<float> scales(codes.entry.bytes);
    for (size_t i = 0; i < scales.size(); ++i) {
      const float value = part_value(parts_[kNestedCodebook], std::to_integer<int>(codes.data[i]));
      const float absmax =
          part_value(parts_[kNestedScales], static_cast<int64_t>(i) / nested_->blocksize);
      scales[i] = value * absmax + nested_->offset;
      if (!std::isfinite(scales[i])) {
        return refuse_part("CHECKPOINT_QUANT_VALUE", codes,
                           "expected finite scales, got " + std::to_string(scales[i]) +
                               " from element " + std::to_string(i));
      }
    }
    return scales;
  }

  std::optional<NestedState> nested_;
};

// The description, and the tensor that it was read from.
struct FoundState {
  StoredPart part;
  QuantState state;
};

absl::StatusOr<FoundState> find_state(const MatrixSearch& search) {
  std::string codebook = "nf4";
  std::optional<StoredPart> part =
      search.find(search.stem + ".weight.quant_state.bitsandbytes__nf4");
  if (!part) {
    codebook = "fp4";
    part = search.find(search.stem + ".weight.quant_state.bitsandbytes__fp4");
  }
  if (!part) {
    return search.missing(search.stem + ".weight.quant_state.bitsandbytes__nf4",
                          "U8 [length] (or the same of fp4)");
  }
  if (part->entry.type != StoredType::kU8 || part->entry.shape.size() != 1) {
    return refuse_part(
        part->entry.type != StoredType::kU8 ? "CHECKPOINT_DTYPE" : "CHECKPOINT_SHAPE", *part,
        "expected U8 [length], got " + std::string(type_name(part->entry.type)) + " " +
            shape_string(part->entry.shape));
  }
  const std::string_view text(reinterpret_cast<const char*>(part->data), part->entry.bytes);
  absl::StatusOr<QuantState> state = parse_quant_state(text);
  if (!state.ok()) {
    return refuse_part("CHECKPOINT_QUANT_STATE", *part, std::string(state.status().message()));
  }
  if (state->codebook != codebook) {
    return refuse_part("CHECKPOINT_QUANT_STATE", *part,
                       "quant_type: expected \"" + codebook + "\" as in the tensor's name, got \"" +
                           state->codebook + "\"");
  }
  return FoundState{*std::move(part), *std::move(state)};
}

// Against the model and against config.json.
absl::Status check_state(const FoundState& found, const MatrixSearch& search) {
  const QuantState& state = found.state;
  const std::vector<int64_t> shape = {search.out_features, search.in_features};
  if (state.shape != shape) {
    return refuse_part(
        "CHECKPOINT_SHAPE", found.part,
        "shape: expected " + shape_string(shape) + ", got " + shape_string(state.shape));
  }
  if (search.in_features % 2 != 0 || search.in_features % state.blocksize != 0) {
    return refuse_part("CHECKPOINT_QUANT_UNSUPPORTED", found.part,
                       "expected an even number of inputs and whole blocks in each row, got " +
                           std::to_string(search.in_features) + " inputs in blocks of " +
                           std::to_string(state.blocksize) + ": take the 16-bit checkpoint");
  }
  const QuantizationConfig& label = search.label;
  if (!label.codebook.empty() && label.codebook != state.codebook) {
    return refuse_part("CHECKPOINT_QUANT_LABEL", found.part,
                       "expected bnb_4bit_quant_type '" + label.codebook +
                           "' as in config.json, got '" + state.codebook + "'");
  }
  if (label.nested.has_value() && *label.nested != state.nested.has_value()) {
    return refuse_part(
        "CHECKPOINT_QUANT_LABEL", found.part,
        std::string("expected bnb_4bit_use_double_quant ") + (*label.nested ? "true" : "false") +
            " as in config.json, got scales that are " + (state.nested ? "nested" : "not nested"));
  }
  return absl::OkStatus();
}

// bitsandbytes stores the bytes as [n, 1] of any type (quant_storage).
absl::StatusOr<StoredPart> find_codes(const MatrixSearch& search) {
  const int64_t bytes = search.out_features * (search.in_features / 2);
  const std::optional<StoredPart> weight = search.find(search.stem + ".weight");
  const StoredType type = weight ? weight->entry.type : StoredType::kU8;
  const auto size = static_cast<int64_t>(type_size(type));
  if (bytes % size != 0) {
    return refuse_part(
        "CHECKPOINT_SHAPE", *weight,
        "expected " + std::to_string(bytes) + " bytes, got elements of " + std::to_string(size));
  }
  return search.require(".weight", {type}, {bytes / size, 1});
}

absl::StatusOr<std::vector<StoredPart>> find_parts(const MatrixSearch& search,
                                                   const FoundState& found) {
  const QuantState& state = found.state;
  const int64_t blocks = search.out_features * (search.in_features / state.blocksize);
  const StoredType scale = state.nested ? StoredType::kU8 : StoredType::kF32;
  std::vector<absl::StatusOr<StoredPart>> wanted = {
      find_codes(search), found.part,
      search.require(".weight.quant_map", {StoredType::kF32}, {int64_t{16}}),
      search.require(".weight.absmax", {scale}, {blocks})};
  if (state.nested) {
    const int64_t groups = (blocks - 1) / state.nested->blocksize + 1;
    wanted.push_back(search.require(".weight.nested_absmax", {StoredType::kF32}, {groups}));
    wanted.push_back(
        search.require(".weight.nested_quant_map", {StoredType::kF32}, {kNestedCodes}));
  }
  std::vector<StoredPart> parts;
  for (absl::StatusOr<StoredPart>& part : wanted) {
    if (!part.ok()) return part.status();
    parts.push_back(*std::move(part));
  }
  return parts;
}

}  // namespace

absl::StatusOr<std::unique_ptr<PackedMatrix>> find_bitsandbytes_matrix(const MatrixSearch& search) {
  const absl::StatusOr<FoundState> found = find_state(search);
  if (!found.ok()) return found.status();
  const absl::Status checked = check_state(*found, search);
  if (!checked.ok()) return checked;
  absl::StatusOr<std::vector<StoredPart>> parts = find_parts(search, *found);
  if (!parts.ok()) return parts.status();

  const QuantState& state = found->state;
  HostWeight description{.format = WeightFormat::kCodebook4,
                         .dense = {},
                         .out_features = search.out_features,
                         .in_features = search.in_features,
                         .group_size = state.blocksize,
                         .dtype = state.dtype};
  const absl::StatusOr<std::vector<float>> codebook = finite_values((*parts)[kCodebook]);
  if (!codebook.ok()) return codebook.status();
  std::copy(codebook->begin(), codebook->end(), description.codebook.begin());
  std::string layout = "bitsandbytes " + state.codebook;
  if (!is_known(description.codebook, state.codebook)) layout += " with another quant_map";
  if (state.nested) layout += ", nested scales";
  return std::make_unique<BitsandbytesMatrix>(std::move(description), state.nested,
                                              std::move(layout), *std::move(parts));
}

}  // namespace cogserve
