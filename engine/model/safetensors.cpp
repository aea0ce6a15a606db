#include "engine/model/safetensors.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/base/error.hpp"
#include "engine/base/json.hpp"

namespace cogserve {
namespace {

using nlohmann::json;

constexpr size_t kLengthBytes = 8;
constexpr char kMetadata[] = "__metadata__";
// File -> tensor -> list: nothing valid nests deeper.
constexpr int kHeaderDepth = 3;

// A name as it may stand in a message.
std::string quote_name(std::string_view name) {
  return absl::StrCat("'", absl::CHexEscape({name.data(), std::min(name.size(), kMaxTensorName)}),
                      "'");
}

std::string shown(const json& value) {
  return value.dump(-1, ' ', true, json::error_handler_t::replace).substr(0, 80);
}

// In the order of StoredType.
struct TypeInfo {
  StoredType type;
  std::string_view name;
  size_t size;
};

constexpr TypeInfo kTypes[] = {
    {StoredType::kF32, "F32", 4}, {StoredType::kBF16, "BF16", 2}, {StoredType::kF16, "F16", 2},
    {StoredType::kI32, "I32", 4}, {StoredType::kI8, "I8", 1},     {StoredType::kU8, "U8", 1},
};

std::optional<StoredType> parse_type(std::string_view name) {
  for (const TypeInfo& info : kTypes) {
    if (info.name == name) return info.type;
  }
  return std::nullopt;
}

// Checks one entry of the header against the `data_bytes` that follow it.
class EntryReader {
 public:
  EntryReader(const std::string& path, size_t data_begin, size_t data_bytes)
      : path_(path), data_begin_(data_begin), data_bytes_(data_bytes) {}

  absl::StatusOr<SafetensorsEntry> read(const std::string& name, const json& value) const {
    if (name.empty() || name.size() > kMaxTensorName) {
      return refuse("CHECKPOINT_HEADER", name,
                    "a name must have 1 to " + std::to_string(kMaxTensorName) + " bytes, got " +
                        std::to_string(name.size()));
    }
    if (!value.is_object() || value.size() != 3 || !value.contains("dtype") ||
        !value.contains("shape") || !value.contains("data_offsets")) {
      return refuse("CHECKPOINT_HEADER", name,
                    "expected dtype, shape and data_offsets, got " + shown(value));
    }
    const json& dtype = value["dtype"];
    const std::optional<StoredType> known =
        dtype.is_string() ? parse_type(dtype.get_ref<const std::string&>()) : std::nullopt;
    if (!known) {
      return refuse("CHECKPOINT_DTYPE", name,
                    "expected BF16, F16, F32, I32, I8 or U8, got " + shown(dtype));
    }
    SafetensorsEntry entry{name, *known, {}, 0, 0};
    absl::Status status = read_shape(value["shape"], &entry);
    if (status.ok()) status = read_offsets(value["data_offsets"], &entry);
    if (!status.ok()) return status;
    return entry;
  }

 private:
  absl::Status refuse(std::string_view reason, const std::string& name, std::string_view what,
                      absl::StatusCode code = absl::StatusCode::kInvalidArgument) const {
    return make_error(code, reason, name,
                      path_ + ": tensor " + quote_name(name) + ": " + std::string(what));
  }

  // Shape, and the bytes that it comes to.
  absl::Status read_shape(const json& shape, SafetensorsEntry* entry) const {
    if (!shape.is_array() || shape.size() > kMaxRank) {
      return refuse("CHECKPOINT_HEADER", entry->name,
                    "shape: expected a list of at most " + std::to_string(kMaxRank) +
                        " sizes, got " + shown(shape));
    }
    uint64_t bytes = type_size(entry->type);
    for (const json& dim : shape) {
      // Unsigned or nothing: a negative or fractional size is of another JSON type.
      if (!dim.is_number_unsigned() || __builtin_mul_overflow(bytes, dim.get<uint64_t>(), &bytes) ||
          dim.get<uint64_t>() > uint64_t{INT64_MAX}) {
        return refuse("CHECKPOINT_HEADER", entry->name,
                      "shape: expected sizes whose product fits 64 bits, got " + shown(shape));
      }
      entry->shape.push_back(dim.get<int64_t>());
    }
    entry->bytes = bytes;
    return absl::OkStatus();
  }

  absl::Status read_offsets(const json& offsets, SafetensorsEntry* entry) const {
    if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
        !offsets[1].is_number_unsigned() || offsets[0] > offsets[1]) {
      return refuse("CHECKPOINT_HEADER", entry->name,
                    "data_offsets: expected [begin, end], got " + shown(offsets));
    }
    const uint64_t begin = offsets[0].get<uint64_t>();
    const uint64_t end = offsets[1].get<uint64_t>();
    if (end - begin != entry->bytes) {
      return refuse("CHECKPOINT_HEADER", entry->name,
                    "shape and dtype come to " + std::to_string(entry->bytes) +
                        " bytes, data_offsets to " + std::to_string(end - begin));
    }
    if (end > data_bytes_) {
      return refuse("CHECKPOINT_TRUNCATED", entry->name,
                    "ends at byte " + std::to_string(end) + " of the data, but the file has only " +
                        std::to_string(data_bytes_),
                    absl::StatusCode::kDataLoss);
    }
    entry->offset = data_begin_ + begin;
    return absl::OkStatus();
  }

  const std::string& path_;
  size_t data_begin_;
  size_t data_bytes_;
};

// No overlap, no gap, nothing before the first or after the last.
absl::Status check_cover(const std::vector<SafetensorsEntry>& entries, size_t begin, size_t end,
                         const std::string& path) {
  size_t at = begin;
  for (const SafetensorsEntry& entry : entries) {
    if (entry.offset != at) {
      const bool overlap = entry.offset < at;
      return invalid_argument(
          overlap ? "CHECKPOINT_OVERLAP" : "CHECKPOINT_GAP", entry.name,
          path + ": tensor " + quote_name(entry.name) + ": " +
              (overlap ? "overlaps the one before it" : "leaves a gap after the one before it") +
              ": expected to begin at byte " + std::to_string(at) + " of the file, got " +
              std::to_string(entry.offset));
    }
    at += entry.bytes;
  }
  if (at == end) return absl::OkStatus();
  return invalid_argument("CHECKPOINT_GAP", "",
                          path + ": expected to end after the last tensor at byte " +
                              std::to_string(at) + ", got " + std::to_string(end) + " bytes");
}

}  // namespace

size_t type_size(StoredType type) { return kTypes[static_cast<size_t>(type)].size; }

std::string_view type_name(StoredType type) { return kTypes[static_cast<size_t>(type)].name; }

std::optional<DType> float_dtype(StoredType type) {
  if (type == StoredType::kF32) return DType::kF32;
  if (type == StoredType::kBF16) return DType::kBF16;
  if (type == StoredType::kF16) return DType::kF16;
  return std::nullopt;
}

absl::StatusOr<std::vector<SafetensorsEntry>> read_safetensors_header(
    std::span<const std::byte> file, const std::string& path) {
  const auto refuse_header = [&](const std::string& what) {
    return invalid_argument("CHECKPOINT_HEADER", "", path + ": " + what);
  };
  const auto truncated = [&](uint64_t needed) {
    return make_error(absl::StatusCode::kDataLoss, "CHECKPOINT_TRUNCATED", "",
                      path + ": expected at least " + std::to_string(needed) + " bytes, got " +
                          std::to_string(file.size()));
  };
  if (file.size() < kLengthBytes) return truncated(kLengthBytes);
  uint64_t header_bytes = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) {
    header_bytes |= std::to_integer<uint64_t>(file[i]) << (8 * i);
  }
  if (header_bytes > kMaxHeaderBytes) {
    return refuse_header("header: at most " + std::to_string(kMaxHeaderBytes) + " bytes, got " +
                         std::to_string(header_bytes));
  }
  const size_t data_begin = kLengthBytes + header_bytes;
  if (file.size() < data_begin) return truncated(data_begin);

  const std::string_view text(reinterpret_cast<const char*>(file.data()) + kLengthBytes,
                              header_bytes);
  if (text.empty() || text.front() != '{') return refuse_header("header: expected a JSON object");
  const absl::StatusOr<json> header = parse_json(text, kHeaderDepth);
  if (!header.ok()) {
    return refuse_header("header: " + std::string(header.status().message()));
  }
  const size_t tensors = header->size() - header->count(kMetadata);
  if (tensors > kMaxTensors) {
    return refuse_header("header: at most " + std::to_string(kMaxTensors) + " tensors, got " +
                         std::to_string(tensors));
  }

  const EntryReader reader(path, data_begin, file.size() - data_begin);
  std::vector<SafetensorsEntry> entries;
  entries.reserve(tensors);
  for (const auto& [name, value] : header->items()) {
    if (name == kMetadata) continue;  // free text for people
    absl::StatusOr<SafetensorsEntry> entry = reader.read(name, value);
    if (!entry.ok()) return entry.status();
    entries.push_back(std::move(*entry));
  }
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return std::pair(a.offset, a.bytes) < std::pair(b.offset, b.bytes);
  });
  const absl::Status covered = check_cover(entries, data_begin, file.size(), path);
  if (!covered.ok()) return covered;
  return entries;
}

}  // namespace cogserve
