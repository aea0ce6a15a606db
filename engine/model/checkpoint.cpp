#include "engine/model/checkpoint.hpp"

#include <algorithm>
#include <filesystem>
#include <map>
#include <new>
#include <nlohmann/json.hpp>
#include <string_view>
#include <system_error>
#include <utility>

#include "engine/base/error.hpp"
#include "engine/base/json.hpp"

namespace cogserve {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";
constexpr std::string_view kWeightSuffix = ".weight";
constexpr char kIgnoredSuffix[] = ".rotary_emb.inv_freq";
constexpr size_t kMaxIndexBytes = size_t{64} << 20;
constexpr size_t kMaxShards = 1024;

bool exists(const std::string& directory, std::string_view name) {
  std::error_code error;
  return fs::exists(fs::path(directory) / name, error);
}

// Neither of the two files is there: says what is there instead.
absl::Status no_checkpoint(const std::string& directory) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    const std::string extension = entry.path().extension().string();
    for (std::string_view refused : {".bin", ".pt", ".pth", ".pkl", ".ckpt", ".gguf"}) {
      if (extension != refused) continue;
      return invalid_argument("CHECKPOINT_FORMAT", entry.path().filename().string(),
                              directory + ": expected " + kSingleFile + " or " + kIndexFile +
                                  ", got " + entry.path().filename().string() + ": " + extension +
                                  " files are never read, convert them to safetensors");
    }
  }
  return make_error(absl::StatusCode::kNotFound, "CHECKPOINT_NOT_FOUND", kSingleFile,
                    directory + ": expected " + kSingleFile + " or " + kIndexFile +
                        ", got neither" + (error ? " (" + error.message() + ")" : ""));
}

absl::Status bad_index(std::string_view field, const std::string& what) {
  return invalid_argument("CHECKPOINT_INDEX", field, std::string(kIndexFile) + ": " + what);
}

// Tensor -> shard file.
absl::StatusOr<std::map<std::string, std::string>> read_index(const std::string& directory) {
  const absl::StatusOr<std::string> text = read_file(directory, kIndexFile, kMaxIndexBytes);
  if (!text.ok()) return text.status();
  const absl::StatusOr<json> index = parse_json(*text);
  if (!index.ok()) return bad_index("", std::string(index.status().message()));
  if (!index->is_object() || !index->contains("weight_map") ||
      !(*index)["weight_map"].is_object()) {
    return bad_index("weight_map", "weight_map: expected an object, got none");
  }
  std::map<std::string, std::string> shard_of;
  for (const auto& [tensor, shard] : (*index)["weight_map"].items()) {
    if (!shard.is_string()) {
      return bad_index(tensor, "tensor '" + tensor + "': expected a file name, got " +
                                   std::string(shard.type_name()));
    }
    shard_of[tensor] = shard.get<std::string>();
  }
  if (shard_of.empty()) return bad_index("weight_map", "weight_map: expected tensors, got none");
  return shard_of;
}

}  // namespace

absl::StatusOr<Checkpoint> Checkpoint::open(const std::string& directory,
                                            const QuantizationConfig& label) {
  Checkpoint checkpoint;
  checkpoint.directory_ = directory;
  checkpoint.label_ = label;
  if (exists(directory, kSingleFile)) {
    absl::Status status = checkpoint.open_shard(directory, kSingleFile);
    if (status.ok()) status = checkpoint.index_tensors();
    if (!status.ok()) return status;
    return checkpoint;
  }
  if (!exists(directory, kIndexFile)) return no_checkpoint(directory);

  const absl::StatusOr<std::map<std::string, std::string>> index = read_index(directory);
  if (!index.ok()) return index.status();
  std::map<std::string, size_t>
      shard_number;  // sorted: shards are read in the order of their names
  for (const auto& [tensor, shard] : *index) shard_number[shard] = 0;
  if (shard_number.size() > kMaxShards) {
    return bad_index("weight_map", "at most " + std::to_string(kMaxShards) + " files, got " +
                                       std::to_string(shard_number.size()));
  }
  for (auto& [shard, number] : shard_number) {
    number = checkpoint.shards_.size();
    const absl::Status status = checkpoint.open_shard(directory, shard);
    if (!status.ok()) return status;
  }
  const absl::Status status = checkpoint.index_tensors();
  if (!status.ok()) return status;

  for (const auto& [tensor, shard] : *index) {
    const auto place = checkpoint.places_.find(tensor);
    const bool there = place != checkpoint.places_.end() &&
                       static_cast<size_t>(place->second >> 32) == shard_number[shard];
    if (!there) {
      return bad_index(tensor, "tensor '" + tensor + "': expected in " + shard + ", got " +
                                   (place == checkpoint.places_.end()
                                        ? "no such tensor in any file"
                                        : checkpoint.shards_[place->second >> 32].path));
    }
  }
  for (const auto& [tensor, place] : checkpoint.places_) {
    if (index->contains(tensor)) continue;
    return bad_index(tensor, checkpoint.shards_[place >> 32].path + ": tensor '" + tensor +
                                 "': not in weight_map");
  }
  return checkpoint;
}

absl::Status Checkpoint::open_shard(const std::string& directory, const std::string& name) {
  absl::StatusOr<MappedFile> file = MappedFile::open(directory, name);
  if (!file.ok()) return file.status();
  Shard shard{(fs::path(directory) / name).string(), std::move(*file), {}};
  absl::StatusOr<std::vector<SafetensorsEntry>> entries =
      read_safetensors_header(shard.file.bytes(), shard.path);
  if (!entries.ok()) return entries.status();
  shard.entries = std::move(*entries);
  shards_.push_back(std::move(shard));
  return absl::OkStatus();
}

absl::Status Checkpoint::index_tensors() {
  for (size_t s = 0; s < shards_.size(); ++s) {
    for (size_t e = 0; e < shards_[s].entries.size(); ++e) {
      const std::string& name = shards_[s].entries[e].name;
      const auto [place, added] = places_.emplace(name, static_cast<int64_t>(s << 32 | e));
      if (added) continue;
      return invalid_argument("CHECKPOINT_DUPLICATE_TENSOR", name,
                              shards_[s].path + ": tensor '" + name + "': already in " +
                                  shards_[place->second >> 32].path);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<StoredTensor> Checkpoint::require(const std::string& name,
                                                 const std::vector<int64_t>& shape) {
  const auto place = places_.find(name);
  if (place == places_.end()) {
    return make_error(absl::StatusCode::kNotFound, "CHECKPOINT_MISSING_TENSOR", name,
                      directory_ + ": tensor '" + name + "': expected " + shape_string(shape) +
                          ", got no such tensor in " + std::to_string(shards_.size()) + " file(s)");
  }
  StoredTensor tensor{.name = name, .shape = shape, .order = place->second};
  const SafetensorsEntry* entry = nullptr;
  const Shard& shard = shard_of(tensor, &entry);
  const std::optional<DType> dtype = float_dtype(entry->type);
  if (!dtype) {
    return invalid_argument("CHECKPOINT_DTYPE", name,
                            shard.path + ": tensor '" + name +
                                "': expected BF16, F16 or F32, got " +
                                std::string(type_name(entry->type)));
  }
  if (entry->shape != shape) {
    return invalid_argument("CHECKPOINT_SHAPE", name,
                            shard.path + ": tensor '" + name + "': expected " +
                                shape_string(shape) + ", got " + shape_string(entry->shape));
  }
  tensor.dtype = *dtype;
  required_.insert(name);
  return tensor;
}

absl::StatusOr<StoredTensor> Checkpoint::require_weight(const std::string& name,
                                                        const std::vector<int64_t>& shape) {
  if (shape.size() == 2 && std::string_view(name).ends_with(kWeightSuffix)) {
    if (absl::Status whole = check_sizes(name); !whole.ok()) return whole;
    const std::string stem = name.substr(0, name.size() - kWeightSuffix.size());
    absl::StatusOr<std::unique_ptr<PackedMatrix>> packed =
        find_packed_matrix(stem, shape[0], shape[1], label_,
                           [this](const std::string& part) { return find_part(part); });
    if (!packed.ok()) return packed.status();
    if (*packed != nullptr) {
      const HostWeight& description = (*packed)->description();
      for (const StoredPart& part : (*packed)->parts()) required_.insert(part.entry.name);
      const int64_t order = places_.at((*packed)->parts().front().entry.name);
      packed_[name] = *std::move(packed);
      return StoredTensor{.name = name,
                          .dtype = description.dtype,
                          .shape = shape,
                          .order = order,
                          .format = description.format,
                          .group_size = description.group_size,
                          .has_zeros = description.has_zeros,
                          .scale_dtype = description.scale_dtype};
    }
  }
  absl::StatusOr<StoredTensor> dense = require(name, shape);
  if (dense.ok()) dense_matrices_.insert(name);
  return dense;
}

absl::Status Checkpoint::finish() const {
  if (label_.method != QuantMethod::kNone && packed_.empty()) {
    return invalid_argument("CHECKPOINT_QUANT_LABEL", "quantization_config",
                            directory_ + ": expected quantised weights of quant_method '" +
                                label_.name + "' as in config.json, got none");
  }
  for (const Shard& shard : shards_) {
    for (const SafetensorsEntry& entry : shard.entries) {
      if (required_.contains(entry.name) ||
          std::string_view(entry.name).ends_with(kIgnoredSuffix)) {
        continue;
      }
      if (absl::Status whole = check_sizes(entry.name); !whole.ok()) return whole;
      if (is_spare_bias(entry, shard)) continue;
      return invalid_argument("CHECKPOINT_EXTRA_TENSOR", entry.name,
                              shard.path + ": tensor '" + entry.name +
                                  "': expected no such tensor, got " + shape_string(entry.shape));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<HostTensor> Checkpoint::read(const StoredTensor& tensor) {
  const SafetensorsEntry* entry = nullptr;
  const Shard& shard = shard_of(tensor, &entry);
  if (absl::Status whole = check_sizes(tensor.name); !whole.ok()) return whole;
  return HostTensor{shard.file.bytes().data() + entry->offset, tensor.dtype, entry->shape};
}

absl::StatusOr<HostWeight> Checkpoint::read_weight(const StoredTensor& tensor) {
  if (tensor.format == WeightFormat::kDense) return WeightSource::read_weight(tensor);
  if (absl::Status whole = check_sizes(tensor.name); !whole.ok()) return whole;
  unpacked_ = {};
  try {
    absl::StatusOr<UnpackedWeight> unpacked = packed_.at(tensor.name)->unpack();
    if (!unpacked.ok()) return unpacked.status();
    unpacked_ = *std::move(unpacked);
  } catch (const std::bad_alloc&) {
    return make_error(absl::StatusCode::kResourceExhausted, "MEMORY", tensor.name,
                      "tensor '" + tensor.name + "': no memory to unpack it");
  }
  return unpacked_.weight;
}

void Checkpoint::release(const StoredTensor& tensor) {
  const auto release_entry = [this](const StoredTensor& stored) {
    const SafetensorsEntry* entry = nullptr;
    const Shard& shard = shard_of(stored, &entry);
    shard.file.release(entry->offset, entry->bytes);
  };
  if (tensor.format == WeightFormat::kDense) return release_entry(tensor);
  for (const StoredPart& part : packed_.at(tensor.name)->parts()) {
    release_entry({.name = part.entry.name, .shape = {}, .order = places_.at(part.entry.name)});
  }
  unpacked_ = {};
}

std::string Checkpoint::file_of(const StoredTensor& tensor) const {
  return shards_[tensor.order >> 32].path;
}

std::string Checkpoint::description() const {
  std::map<std::string, int> counts;
  for (const auto& [name, matrix] : packed_) ++counts[matrix->layout()];
  std::string text;
  for (const auto& [layout, count] : counts) {
    text += layout + ": " + std::to_string(count) + " matrices; ";
  }
  return text + "dense: " + std::to_string(dense_matrices_.size()) +
         (text.empty() ? " matrices" : "");
}

std::optional<StoredPart> Checkpoint::find_part(const std::string& name) const {
  const auto place = places_.find(name);
  if (place == places_.end()) return std::nullopt;
  const SafetensorsEntry* entry = nullptr;
  const Shard& shard = shard_of({.name = name, .shape = {}, .order = place->second}, &entry);
  return StoredPart{*entry, shard.path, shard.file.bytes().data() + entry->offset};
}

bool Checkpoint::is_spare_bias(const SafetensorsEntry& entry, const Shard& shard) const {
  constexpr std::string_view kBiasSuffix = ".bias";
  if (!std::string_view(entry.name).ends_with(kBiasSuffix) || !float_dtype(entry.type)) {
    return false;
  }
  const std::string stem = entry.name.substr(0, entry.name.size() - kBiasSuffix.size());
  const auto matrix = packed_.find(stem + std::string(kWeightSuffix));
  if (matrix == packed_.end() ||
      entry.shape != std::vector<int64_t>{matrix->second->description().out_features}) {
    return false;
  }
  const StoredPart bias{entry, shard.path, shard.file.bytes().data() + entry.offset};
  for (int64_t i = 0; i < entry.shape[0]; ++i) {
    if (part_value(bias, i) != 0.0f) return false;
  }
  return true;
}

absl::Status Checkpoint::check_sizes(const std::string& tensor) const {
  for (const Shard& shard : shards_) {
    const absl::Status whole = shard.file.check_size();
    if (whole.ok()) continue;
    return make_error(absl::StatusCode::kDataLoss, "CHECKPOINT_TRUNCATED", tensor,
                      "tensor '" + tensor + "': " + std::string(whole.message()));
  }
  return absl::OkStatus();
}

const Checkpoint::Shard& Checkpoint::shard_of(const StoredTensor& tensor,
                                              const SafetensorsEntry** entry) const {
  const Shard& shard = shards_[tensor.order >> 32];
  *entry = &shard.entries[tensor.order & 0xffffffff];
  return shard;
}

}  // namespace cogserve
