#include "engine/model/gptq_matrix.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "engine/base/error.hpp"

namespace cogserve {
namespace {

constexpr int64_t kWordCodes = 8;  // in 32 bits, the first in the lowest
constexpr int64_t kLineWords = 16;
constexpr int kMiddle = 8;

int32_t word_at(const StoredPart& part, int64_t index) {
  int32_t word;
  std::memcpy(&word, part.data + index * 4, sizeof word);
  return word;
}

enum Part { kCodes, kScales, kZeros, kGroupIndex };

// Parts in the order of Part; the last one may be absent. All of theirs are transposed:
// codes [in / 8, out], scales [groups, out], zeros [groups, out / 8].
class GptqMatrix : public PackedMatrix {
 public:
  GptqMatrix(HostWeight description, const QuantizationConfig& label, std::vector<StoredPart> parts)
      : symmetric_(label.symmetric), zero_offset_(label.zero_offset) {
    description_ = std::move(description);
    description_.has_zeros = !symmetric_;
    const StoredType scales = parts[kScales].entry.type;
    description_.scale_dtype = scales == StoredType::kF16 ? DType::kF16 : DType::kF32;
    layout_ = label.name + (symmetric_ ? " int4" : " int4 with zeros");
    parts_ = std::move(parts);
  }

  absl::StatusOr<UnpackedWeight> unpack() const override {
    UnpackedWeight unpacked;
    if (absl::Status status = unpack_scales(&unpacked.scales); !status.ok()) return status;
    unpacked.zeros = unpack_zeros();
    if (symmetric_) {
      if (absl::Status status = check_symmetric(unpacked.zeros); !status.ok()) return status;
      unpacked.zeros.clear();
    } else if (absl::Status status = check_convention(unpacked.zeros); !status.ok()) {
      return status;
    }
    unpacked.codes = unpack_codes();
    unpacked.weight = description_;
    unpacked.weight.codes = unpacked.codes.data();
    unpacked.weight.scales = unpacked.scales.data();
    // Zeros of 8 everywhere are none: the fastest kernels are those without.
    const bool centred = std::all_of(unpacked.zeros.begin(), unpacked.zeros.end(),
                                     [](uint8_t zero) { return zero == kMiddle; });
    unpacked.weight.has_zeros = !centred;
    if (!centred) unpacked.weight.zeros = unpacked.zeros.data();
    return unpacked;
  }

 private:
  int64_t out() const { return description_.out_features; }
  int64_t groups() const { return description_.groups(); }

  // A word's four bytes are already as HostWeight has them: only the words are transposed, a cache
  // line of each output at a time.
  std::vector<std::byte> unpack_codes() const {
    const int64_t rows = description_.in_features / kWordCodes;
    std::vector<std::byte> codes(parts_[kCodes].entry.bytes);
    for (int64_t begin = 0; begin < rows; begin += kLineWords) {
      const int64_t end = std::min(begin + kLineWords, rows);
      for (int64_t o = 0; o < out(); ++o) {
        for (int64_t row = begin; row < end; ++row) {
          std::memcpy(codes.data() + (o * rows + row) * 4,
                      parts_[kCodes].data + (row * out() + o) * 4, 4);
        }
      }
    }
    return codes;
  }

  absl::Status unpack_scales(std::vector<float>* scales) const {
    const absl::StatusOr<std::vector<float>> stored = finite_values(parts_[kScales]);
    if (!stored.ok()) return stored.status();
    scales->resize(stored->size());
    for (int64_t o = 0; o < out(); ++o) {
      for (int64_t group = 0; group < groups(); ++group) {
        (*scales)[o * groups() + group] = (*stored)[group * out() + o];
      }
    }
    return absl::OkStatus();
  }

  // [out, groups]: as stored where symmetric, else what they stand for.
  std::vector<uint8_t> unpack_zeros() const {
    const int offset = symmetric_ ? 0 : zero_offset_;
    std::vector<uint8_t> zeros(out() * groups());
    for (int64_t group = 0; group < groups(); ++group) {
      for (int64_t o = 0; o < out(); ++o) {
        const int32_t word = word_at(parts_[kZeros], group * (out() / kWordCodes) + o / kWordCodes);
        const int stored = word >> (4 * (o % kWordCodes)) & 15;
        zeros[o * groups() + group] = static_cast<uint8_t>(stored + offset);
      }
    }
    return zeros;
  }

  // 7 by the first convention and 8 by the second both mean 8, whatever the label says: some
  // writers use the second under the first one's name.
  absl::Status check_symmetric(const std::vector<uint8_t>& stored) const {
    const int first = stored.front() == kMiddle ? kMiddle : kMiddle - 1;
    const auto other =
        std::find_if(stored.begin(), stored.end(), [first](uint8_t zero) { return zero != first; });
    if (other == stored.end()) return absl::OkStatus();
    const int64_t at = other - stored.begin();
    return refuse_part("CHECKPOINT_QUANT_LABEL", parts_[kZeros],
                       "expected every zero to be 7 or every zero to be 8, as config.json says "
                       "sym, got " +
                           std::to_string(*other) + " for output " + std::to_string(at / groups()) +
                           ", group " + std::to_string(at % groups()));
  }

  // Zeros that all are one beside the middle are the middle by the other convention: symmetric
  // weights under a wrong label, each of which would be a step off.
  absl::Status check_convention(const std::vector<uint8_t>& zeros) const {
    const int beside = zero_offset_ == 1 ? kMiddle + 1 : kMiddle - 1;
    if (std::any_of(zeros.begin(), zeros.end(), [&](uint8_t zero) { return zero != beside; })) {
      return absl::OkStatus();
    }
    const std::string stored = std::to_string(beside - zero_offset_);
    return refuse_part(
        "CHECKPOINT_QUANT_LABEL", parts_[kZeros],
        std::string("expected zeros ") +
            (zero_offset_ == 1 ? "less 1, as gptq stores them" : "as they are") + ", got " +
            stored + " everywhere, which by the other convention is 8: " + "if so, say sym true");
  }

  bool symmetric_;
  int zero_offset_;
};

// The group of each input, where it is stored, must be its place's: otherwise inputs were sorted.
absl::Status check_group_index(const StoredPart& part, const HostWeight& description) {
  for (int64_t i = 0; i < description.in_features; ++i) {
    const int32_t group = word_at(part, i);
    if (group < 0 || group >= description.groups()) {
      return refuse_part("CHECKPOINT_QUANT_VALUE", part,
                         "expected groups 0 to " + std::to_string(description.groups() - 1) +
                             ", got " + std::to_string(group) + " for input " + std::to_string(i));
    }
    if (group != i / description.group_size) {
      return refuse_part("CHECKPOINT_QUANT_UNSUPPORTED", part,
                         "expected group " + std::to_string(i / description.group_size) +
                             " for input " + std::to_string(i) + ", got " + std::to_string(group) +
                             ": inputs in the order of desc_act are not read, quantise with "
                             "desc_act false");
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<PackedMatrix>> find_gptq_matrix(const MatrixSearch& search) {
  const int64_t out = search.out_features;
  const int64_t in = search.in_features;
  const HostWeight description{
      .format = WeightFormat::kInt4,
      .dense = {},
      .out_features = out,
      .in_features = in,
      .group_size = search.label.group_size > 0 ? search.label.group_size : in,
      .dtype = DType::kF32};
  std::vector<StoredPart> parts;
  const auto require = [&](std::string_view suffix, std::initializer_list<StoredType> types,
                           const std::vector<int64_t>& shape) {
    absl::StatusOr<StoredPart> part = search.require(suffix, types, shape);
    if (part.ok()) parts.push_back(*std::move(part));
    return part.status();
  };
  absl::Status status = require(".qweight", {StoredType::kI32}, {in / kWordCodes, out});
  if (!status.ok()) return status;
  if (in % kWordCodes != 0 || out % kWordCodes != 0) {
    return refuse_part("CHECKPOINT_QUANT_UNSUPPORTED", parts[kCodes],
                       "expected inputs and outputs in whole words of 8, got " +
                           std::to_string(in) + " inputs and " + std::to_string(out) + " outputs");
  }
  const int64_t groups = description.groups();
  status =
      require(".scales", {StoredType::kF16, StoredType::kBF16, StoredType::kF32}, {groups, out});
  if (status.ok()) status = require(".qzeros", {StoredType::kI32}, {groups, out / kWordCodes});
  if (!status.ok()) return status;
  if (search.find(search.stem + ".g_idx")) {
    status = require(".g_idx", {StoredType::kI32}, {in});
    if (status.ok()) status = check_group_index(parts[kGroupIndex], description);
    if (!status.ok()) return status;
  } else if (search.label.reordered) {
    return refuse_part(
        "CHECKPOINT_QUANT_LABEL", parts[kCodes],
        "expected a tensor '" + search.stem + ".g_idx' as config.json says desc_act, got none");
  }
  return std::make_unique<GptqMatrix>(description, search.label, std::move(parts));
}

}  // namespace cogserve
