#include "engine/model/packed_matrix.hpp"

#include <algorithm>
#include <cmath>

#include "engine/base/error.hpp"
#include "engine/model/bitsandbytes_matrix.hpp"
#include "engine/model/gptq_matrix.hpp"
#include "engine/model/native_matrix.hpp"

namespace cogserve {
namespace {

std::string shown(const StoredPart& part) {
  return std::string(type_name(part.entry.type)) + " " + shape_string(part.entry.shape);
}

std::string shown(std::initializer_list<StoredType> types, const std::vector<int64_t>& shape) {
  std::string text;
  for (const StoredType type : types) {
    text += (text.empty() ? "" : " or ") + std::string(type_name(type));
  }
  return text + " " + shape_string(shape);
}

// How a layout is recognised: by tensors that no other has.
struct LayoutMarks {
  QuantMethod method;
  std::initializer_list<const char*> suffixes;
};

const LayoutMarks kLayouts[] = {
    {QuantMethod::kCogserve, {".weight_scale"}},
    {QuantMethod::kBitsandbytes,
     {".weight.absmax", ".weight.quant_map", ".weight.quant_state.bitsandbytes__nf4",
      ".weight.quant_state.bitsandbytes__fp4", ".weight.nested_absmax",
      ".weight.nested_quant_map"}},
    {QuantMethod::kGptq, {".qweight", ".scales", ".qzeros", ".g_idx"}},
};

std::string method_name(QuantMethod method) {
  if (method == QuantMethod::kCogserve) return "cogserve";
  if (method == QuantMethod::kBitsandbytes) return "bitsandbytes";
  return method == QuantMethod::kGptq ? "gptq" : "none";
}

// The layout that a mark was found of, and that tensor.
struct Found {
  QuantMethod method = QuantMethod::kNone;
  StoredPart mark;
};

// None (kNone), one, or a complaint about two.
absl::StatusOr<Found> find_layout(const std::string& stem, const QuantizationConfig& label,
                                  const FindPart& find) {
  Found found;
  for (const LayoutMarks& layout : kLayouts) {
    std::optional<StoredPart> mark;
    for (const char* suffix : layout.suffixes) {
      if (!mark) mark = find(stem + suffix);
    }
    if (!mark) continue;
    if (found.method != QuantMethod::kNone) {
      return refuse_part("CHECKPOINT_QUANT_LAYOUT", *mark,
                         "expected one layout, got those of " + method_name(found.method) + " (" +
                             found.mark.entry.name + ") and " + method_name(layout.method));
    }
    found = {layout.method, *std::move(mark)};
  }
  const std::optional<StoredPart> weight = find(stem + ".weight");
  if (found.method == QuantMethod::kGptq && weight) {
    return refuse_part(
        "CHECKPOINT_QUANT_LAYOUT", *weight,
        "expected dense or quantised, got both: " + found.mark.entry.name + " is there too");
  }
  // Without its marks, packed all the same: let the layout that config.json names say what lacks.
  if (found.method == QuantMethod::kNone && weight && label.method != QuantMethod::kGptq &&
      !float_dtype(weight->entry.type)) {
    found = {label.method, *weight};
  }
  return found;
}

}  // namespace

absl::Status refuse_part(std::string_view reason, const StoredPart& part, std::string_view what) {
  return invalid_argument(reason, part.entry.name,
                          part.file + ": tensor '" + part.entry.name + "': " + std::string(what));
}

float part_value(const StoredPart& part, int64_t index) {
  return host_value({part.data, *float_dtype(part.entry.type), {}}, index);
}

absl::StatusOr<std::vector<float>> finite_values(const StoredPart& part) {
  std::vector<float> values(part.entry.bytes / type_size(part.entry.type));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = part_value(part, static_cast<int64_t>(i));
    if (!std::isfinite(values[i])) {
      return refuse_part("CHECKPOINT_QUANT_VALUE", part,
                         "expected finite numbers, got " + std::to_string(values[i]) +
                             " at element " + std::to_string(i));
    }
  }
  return values;
}

absl::StatusOr<StoredPart> MatrixSearch::require(std::string_view suffix,
                                                 std::initializer_list<StoredType> types,
                                                 const std::vector<int64_t>& shape) const {
  const std::string name = stem + std::string(suffix);
  std::optional<StoredPart> part = find(name);
  if (!part) return missing(name, shown(types, shape));
  const bool right_type = std::find(types.begin(), types.end(), part->entry.type) != types.end();
  if (right_type && part->entry.shape == shape) return *std::move(part);
  return refuse_part(right_type ? "CHECKPOINT_SHAPE" : "CHECKPOINT_DTYPE", *part,
                     "expected " + shown(types, shape) + ", got " + shown(*part));
}

absl::Status MatrixSearch::missing(const std::string& name, const std::string& expected) const {
  return make_error(absl::StatusCode::kNotFound, "CHECKPOINT_MISSING_TENSOR", name,
                    file + ": tensor '" + name + "': expected " + expected +
                        " with the other tensors of this quantised matrix, got none");
}

absl::StatusOr<std::unique_ptr<PackedMatrix>> find_packed_matrix(const std::string& stem,
                                                                 int64_t out_features,
                                                                 int64_t in_features,
                                                                 const QuantizationConfig& label,
                                                                 const FindPart& find) {
  if (const auto int8 = find(stem + ".SCB")) {
    return refuse_part("CHECKPOINT_QUANT_UNSUPPORTED", *int8,
                       "expected a layout that is read, got LLM.int8 of bitsandbytes: take the "
                       "16-bit checkpoint");
  }
  const absl::StatusOr<Found> found = find_layout(stem, label, find);
  if (!found.ok()) return found.status();
  if (found->method == QuantMethod::kNone) return nullptr;
  if (found->method != label.method) {
    return refuse_part("CHECKPOINT_QUANT_LABEL", found->mark,
                       "expected quant_method " +
                           (label.name.empty() ? "none" : "'" + label.name + "'") +
                           " as in config.json, got the layout of " + method_name(found->method));
  }
  const MatrixSearch search{stem, out_features, in_features, label, find, found->mark.file};
  if (found->method == QuantMethod::kCogserve) return find_native_matrix(search);
  if (found->method == QuantMethod::kBitsandbytes) return find_bitsandbytes_matrix(search);
  return find_gptq_matrix(search);
}

}  // namespace cogserve
