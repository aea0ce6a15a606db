#include "engine/model/native_matrix.hpp"

#include <cstring>
#include <utility>

#include "engine/base/error.hpp"

namespace cogserve {
namespace {

// parts: codes, scales. The codes stay in the file, which has them in HostWeight's order.
class NativeMatrix : public PackedMatrix {
 public:
  NativeMatrix(HostWeight description, StoredPart codes, StoredPart scales) {
    layout_ = description.format == WeightFormat::kInt4 ? "cogserve int4" : "cogserve int8";
    description_ = std::move(description);
    parts_ = {std::move(codes), std::move(scales)};
  }

  absl::StatusOr<UnpackedWeight> unpack() const override {
    absl::StatusOr<std::vector<float>> scales = finite_values(parts_[1]);
    if (!scales.ok()) return scales.status();
    const StoredPart& codes = parts_[0];
    if (description_.format == WeightFormat::kInt8) {
      const void* lowest = std::memchr(codes.data, 0x80, codes.entry.bytes);
      if (lowest != nullptr) {
        return refuse_part("CHECKPOINT_QUANT_VALUE", codes,
                           "expected -127 to 127, got -128 at element " +
                               std::to_string(static_cast<const std::byte*>(lowest) - codes.data));
      }
    }
    UnpackedWeight unpacked;
    unpacked.scales = *std::move(scales);
    unpacked.weight = description_;
    unpacked.weight.codes = codes.data;
    unpacked.weight.scales = unpacked.scales.data();
    return unpacked;
  }
};

}  // namespace

absl::StatusOr<std::unique_ptr<PackedMatrix>> find_native_matrix(const MatrixSearch& search) {
  const int64_t out = search.out_features;
  const int64_t in = search.in_features;
  HostWeight description{.format = WeightFormat::kInt8,
                         .dense = {},
                         .out_features = out,
                         .in_features = in,
                         .group_size = in,
                         .dtype = DType::kF32};
  const std::optional<StoredPart> weight = search.find(search.stem + ".weight");
  if (weight && weight->entry.type == StoredType::kI8) {
    auto codes = search.require(".weight", {StoredType::kI8}, {out, in});
    if (!codes.ok()) return codes.status();
    auto scales = search.require(".weight_scale", {StoredType::kF32}, {out, 1});
    if (!scales.ok()) return scales.status();
    return std::make_unique<NativeMatrix>(description, *std::move(codes), *std::move(scales));
  }
  description.format = WeightFormat::kInt4;
  description.group_size = search.label.group_size;
  description.scale_dtype = DType::kF16;
  auto codes = search.require(".weight", {StoredType::kU8}, {out, in / 2});
  if (!codes.ok()) return codes.status();
  if (in % 2 != 0) {
    return refuse_part("CHECKPOINT_QUANT_UNSUPPORTED", *codes,
                       "expected an even number of inputs for int4, got " + std::to_string(in));
  }
  auto scales = search.require(".weight_scale", {StoredType::kF16}, {out, description.groups()});
  if (!scales.ok()) return scales.status();
  return std::make_unique<NativeMatrix>(description, *std::move(codes), *std::move(scales));
}

}  // namespace cogserve
