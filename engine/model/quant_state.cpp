#include "engine/model/quant_state.hpp"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "engine/base/json.hpp"

namespace cogserve {
namespace {

using nlohmann::json;

// Object -> list: nothing valid nests deeper.
constexpr int kDepth = 2;

// Keeps the first complaint; a value that was refused reads as zero.
class StateReader {
 public:
  explicit StateReader(const json& state) : state_(state) {}

  const absl::Status& status() const { return status_; }
  bool has(const char* key) const { return state_.contains(key); }

  std::string text(const char* key) {
    const json& value = get(key);
    if (value.is_string()) return value.get<std::string>();
    refuse(key, "a string", value);
    return "";
  }

  int64_t count(const char* key, const json& value) {
    if (value.is_number_unsigned() && value.get<uint64_t>() >= 1 &&
        value.get<uint64_t>() <= uint64_t{INT64_MAX}) {
      return value.get<int64_t>();
    }
    refuse(key, "a whole number above 0", value);
    return 0;
  }
  int64_t count(const char* key) { return count(key, get(key)); }

  std::vector<int64_t> shape(const char* key) {
    const json& value = get(key);
    if (!value.is_array() || value.size() != 2) {
      refuse(key, "[out, in]", value);
      return {};
    }
    return {count(key, value[0]), count(key, value[1])};
  }

  float number(const char* key) {
    const json& value = get(key);
    const double number = value.is_number() ? value.get<double>() : std::nan("");
    if (std::abs(number) <= std::numeric_limits<float>::max()) return static_cast<float>(number);
    refuse(key, "a finite f32 number", value);
    return 0.0f;
  }

  void refuse(const char* key, const std::string& expected, const json& value) {
    if (!status_.ok()) return;
    status_ = absl::InvalidArgumentError(
        std::string(key) + ": expected " + expected + ", got " +
        value.dump(-1, ' ', true, json::error_handler_t::replace).substr(0, 80));
  }

 private:
  const json& get(const char* key) const {
    static const json kNone;
    const auto found = state_.find(key);
    return found == state_.end() ? kNone : *found;
  }

  const json& state_;
  absl::Status status_;
};

DType read_dtype(StateReader* reader) {
  const std::string dtype = reader->text("dtype");
  if (dtype == "bfloat16") return DType::kBF16;
  if (dtype == "float16") return DType::kF16;
  if (dtype != "float32") {
    reader->refuse("dtype", "\"bfloat16\", \"float16\" or \"float32\"", json(dtype));
  }
  return DType::kF32;
}

}  // namespace

absl::StatusOr<QuantState> parse_quant_state(std::string_view text) {
  if (text.size() > kMaxQuantState) {
    return absl::InvalidArgumentError("expected at most " + std::to_string(kMaxQuantState) +
                                      " bytes of JSON, got " + std::to_string(text.size()));
  }
  const absl::StatusOr<json> document = parse_json(text, kDepth);
  if (!document.ok()) {
    return absl::InvalidArgumentError("expected a JSON object, got " +
                                      std::string(document.status().message()));
  }
  if (!document->is_object()) {
    return absl::InvalidArgumentError(std::string("expected a JSON object, got ") +
                                      document->type_name());
  }
  StateReader reader(*document);
  QuantState state;
  state.codebook = reader.text("quant_type");
  if (state.codebook != "nf4" && state.codebook != "fp4") {
    reader.refuse("quant_type", "\"fp4\" or \"nf4\"", json(state.codebook));
  }
  state.blocksize = reader.count("blocksize");
  state.dtype = read_dtype(&reader);
  state.shape = reader.shape("shape");
  if (reader.has("nested_blocksize") || reader.has("nested_offset") || reader.has("nested_dtype")) {
    NestedState nested{reader.count("nested_blocksize"), reader.number("nested_offset")};
    if (reader.text("nested_dtype") != "float32") {
      reader.refuse("nested_dtype", "\"float32\"", json(reader.text("nested_dtype")));
    }
    state.nested = nested;
  }
  if (!reader.status().ok()) return reader.status();
  return state;
}

}  // namespace cogserve
