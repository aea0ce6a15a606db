#include "engine/quantize_checkpoint.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

#include "engine/base/directory.hpp"
#include "engine/base/error.hpp"
#include "engine/base/file.hpp"
#include "engine/base/json.hpp"
#include "engine/base/output_file.hpp"
#include "engine/model/checkpoint.hpp"
#include "engine/model/native_layout.hpp"
#include "engine/model/quantize.hpp"
#include "engine/model/weights.hpp"

namespace cogserve {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr char kConfig[] = "config.json";
constexpr char kIndex[] = "model.safetensors.index.json";
constexpr char kReport[] = "quantization_report.json";
// Says whose a directory is, from the first moment on.
constexpr char kMarker[] = "cogserve_quantize.json";
constexpr size_t kMaxSmallFile = size_t{64} << 20;

// A tensor of the source and what it becomes.
struct Item {
  ModelTensor tensor;
  StoredTensor stored;
  std::vector<OutputTensor> outputs;
  int64_t bytes = 0;  // in the source
};

struct Shard {
  std::string name;
  std::string header;
  std::vector<const Item*> items;
  int64_t data_bytes = 0;

  int64_t bytes() const { return static_cast<int64_t>(header.size()) + data_bytes; }
};

int64_t bytes_of(const std::vector<OutputTensor>& tensors) {
  int64_t bytes = 0;
  for (const OutputTensor& tensor : tensors) bytes += tensor.bytes;
  return bytes;
}

// Every tensor of the model, in the order of the source's files.
absl::StatusOr<std::vector<Item>> list_items(const ModelConfig& config,
                                             const WeightFormats& formats, Checkpoint* source) {
  std::vector<Item> items;
  for (ModelTensor& tensor : list_tensors(config, formats)) {
    absl::StatusOr<StoredTensor> stored = source->require(tensor.name, tensor.shape);
    if (!stored.ok()) return stored.status();
    Item item{.tensor = std::move(tensor), .stored = *std::move(stored), .outputs = {}};
    item.outputs = native_tensors(item.tensor, item.stored.dtype);
    item.bytes = HostTensor{nullptr, item.stored.dtype, item.stored.shape}.elements() *
                 static_cast<int64_t>(dtype_size(item.stored.dtype));
    items.push_back(std::move(item));
  }
  const absl::Status complete = source->finish();
  if (!complete.ok()) return complete;
  std::sort(items.begin(), items.end(),
            [](const Item& a, const Item& b) { return a.stored.order < b.stored.order; });
  return items;
}

// A matrix and its scales stay together.
std::vector<Shard> plan_shards(const std::vector<Item>& items, int64_t shard_bytes) {
  std::vector<Shard> shards(1);
  for (const Item& item : items) {
    const int64_t bytes = bytes_of(item.outputs);
    if (shards.back().data_bytes > 0 && shards.back().data_bytes + bytes > shard_bytes) {
      shards.emplace_back();
    }
    shards.back().items.push_back(&item);
    shards.back().data_bytes += bytes;
  }
  for (size_t i = 0; i < shards.size(); ++i) {
    char name[64];
    std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", i + 1, shards.size());
    shards[i].name = name;
    std::vector<OutputTensor> tensors;
    for (const Item* item : shards[i].items) {
      tensors.insert(tensors.end(), item->outputs.begin(), item->outputs.end());
    }
    shards[i].header = safetensors_header(tensors);
  }
  return shards;
}

// What each tensor became stands in its dtype, once.
json quantization_label() {
  return {{"quant_method", "cogserve"}, {"version", 1}, {"group_size", kInt4GroupSize}};
}

// The request, and the source's files with their sizes and times of change, by which a fine-tuned
// model differs from its base: a destination is only ever completed from what it was begun with.
std::string marker_of(const QuantizeOptions& options, const std::vector<std::string>& names) {
  json files = json::object();
  std::error_code error;
  for (const std::string& name : names) {
    const fs::path path = fs::path(options.source) / name;
    if (path.extension() != ".safetensors") continue;
    files[name] = {{"bytes", fs::file_size(path, error)},
                   {"changed", fs::last_write_time(path, error).time_since_epoch().count()}};
  }
  const WeightFormats& formats = options.formats;
  return json{{"quantization_config", quantization_label()},
              {"decoder", format_name(formats.decoder)},
              {"vision", format_name(formats.vision)},
              {"lm_head", format_name(formats.head)},
              {"shard_bytes", options.shard_bytes},
              {"source", files}}
             .dump(2) +
         "\n";
}

// Made, taken for this run, and marked as begun with `marker`.
absl::StatusOr<DirectoryLock> take_destination(const std::string& directory,
                                               const std::string& marker) {
  const auto refuse = [&](const std::string& what) {
    return make_error(absl::StatusCode::kFailedPrecondition, "DESTINATION", directory,
                      directory + ": " + what);
  };
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) return refuse("cannot be made: " + error.message());
  absl::StatusOr<DirectoryLock> lock = DirectoryLock::take(directory);
  if (!lock.ok()) return lock;
  const absl::StatusOr<std::string> found = read_file(directory, kMarker, kMaxSmallFile);
  if (found.ok()) {
    if (*found == marker) return lock;
    return refuse(
        "was begun from another checkpoint, with other options or by another version; give an "
        "empty "
        "one");
  }
  if (fs::exists(fs::symlink_status(fs::path(directory) / kMarker, error))) return found.status();
  const absl::StatusOr<std::vector<std::string>> names = list_directory(directory);
  if (!names.ok()) return names.status();
  for (const std::string& name : *names) {
    if (name == std::string(kMarker) + ".partial") continue;
    // Of a new file system, which is as good as empty.
    if (name == "lost+found" && fs::is_directory(fs::path(directory) / name, error)) continue;
    return refuse("is not empty (" + name + ") and nothing that cogserve quantize has begun");
  }
  const absl::Status status = write_file(directory, kMarker, marker);
  if (!status.ok()) return status;
  return lock;
}

// Until all shards are there again it is no checkpoint, though an earlier run may have ended.
void unfinish(const std::string& directory) {
  std::error_code ignored;
  fs::remove(fs::path(directory) / kConfig, ignored);
}

// Empty for a file of as many bytes as it should have.
std::string size_fault(const Shard& shard, uintmax_t bytes) {
  if (bytes == static_cast<uintmax_t>(shard.bytes())) return "";
  return "expected " + std::to_string(shard.bytes()) + " bytes, got " + std::to_string(bytes);
}

// The shard of an earlier run, in which `fault` was found.
void discard(const std::string& directory, const Shard& shard, const std::string& fault,
             QuantizeReport* report) {
  std::error_code ignored;
  unfinish(directory);
  fs::remove(fs::path(directory) / shard.name, ignored);
  report->shards_replaced.push_back(shard.name + ": " + fault);
}

// What an earlier run left and this one cannot keep must not count as taken when space is checked.
void discard_leftovers(const std::string& directory, const std::vector<Shard>& shards,
                       QuantizeReport* report) {
  std::error_code error;
  for (const Shard& shard : shards) {
    const fs::path path = fs::path(directory) / shard.name;
    const fs::path partial = path.string() + ".partial";
    if (fs::is_regular_file(fs::symlink_status(partial, error))) fs::remove(partial, error);
    if (!fs::is_regular_file(path, error)) continue;
    const std::string fault = size_fault(shard, fs::file_size(path, error));
    if (!error && !fault.empty()) discard(directory, shard, fault, report);
  }
}

absl::Status check_space(const QuantizeOptions& options, const std::vector<Shard>& shards) {
  int64_t wanted = 0;
  std::error_code error;
  for (const Shard& shard : shards) {
    if (!fs::exists(fs::path(options.destination) / shard.name, error)) wanted += shard.bytes();
  }
  const fs::space_info space = fs::space(options.destination, error);
  if (error || static_cast<int64_t>(space.available) >= wanted) return absl::OkStatus();
  return make_error(absl::StatusCode::kResourceExhausted, "DISK_FULL", options.destination,
                    options.destination + ": " + std::to_string(wanted) +
                        " bytes are to be written, and " + std::to_string(space.available) +
                        " are free");
}

// Reads tensors of the source one at a time, and writes or checks shards.
class Converter {
 public:
  Converter(const QuantizeOptions& options, Checkpoint* source, QuantizeReport* report)
      : options_(options), source_(*source), report_(*report) {}

  absl::Status write(const Shard& shard, const std::function<void(const Item&)>& done) {
    absl::StatusOr<OutputFile> file = OutputFile::create(options_.destination, shard.name);
    if (!file.ok()) return file.status();
    absl::Status status = file->append(shard.header.data(), shard.header.size());
    for (const Item* item : shard.items) {
      if (!status.ok()) return status;
      const absl::StatusOr<HostTensor> tensor = source_.read(item->stored);
      if (!tensor.ok()) return tensor.status();
      status = item->tensor.format == WeightFormat::kDense ? file->append(tensor->data, item->bytes)
                                                           : write_matrix(*item, *tensor, &*file);
      source_.release(item->stored);
      done(*item);
    }
    return status.ok() ? file->finish() : status;
  }

  // What is wrong with the shard of an earlier run; empty if nothing is, and then its matrices are
  // reported. What cannot be read is an error, and says nothing of the shard's content.
  absl::StatusOr<std::string> fault_of(const Shard& shard) {
    const absl::StatusOr<MappedFile> file = MappedFile::open(options_.destination, shard.name);
    if (!file.ok()) return file.status();
    if (std::string fault = size_fault(shard, file->bytes().size()); !fault.empty()) return fault;
    const std::byte* at = file->bytes().data();
    if (std::memcmp(at, shard.header.data(), shard.header.size()) != 0) {
      return "its header is not the one that was written";
    }
    at += shard.header.size();
    std::vector<QuantizedTensor> found;
    for (const Item* item : shard.items) {
      const absl::StatusOr<HostTensor> tensor = source_.read(item->stored);
      if (!tensor.ok()) return tensor.status();
      const bool same = item->tensor.format == WeightFormat::kDense
                            ? std::memcmp(at, tensor->data, item->bytes) == 0
                            : same_matrix(*item, *tensor, at, &found);
      source_.release(item->stored);
      if (!same) return "tensor '" + item->tensor.name + "': not what the source gives";
      at += bytes_of(item->outputs);
    }
    report_.tensors.insert(report_.tensors.end(), found.begin(), found.end());
    return "";
  }

 private:
  absl::Status write_matrix(const Item& item, const HostTensor& tensor, OutputFile* file) {
    const auto matrix =
        QuantizedMatrix::quantize(tensor, item.tensor.name, item.tensor.format, options_.threads);
    if (!matrix.ok()) return in_file(source_.file_of(item.stored), matrix.status());
    const HostWeight weight = matrix->weight();
    report_.tensors.push_back({item.tensor.name, item.tensor.format,
                               squared_error(tensor, weight, options_.threads).relative()});
    const absl::Status status = file->append(weight.codes, item.outputs[0].bytes);
    if (!status.ok()) return status;
    if (weight.format == WeightFormat::kInt8) {
      return file->append(weight.scales, item.outputs[1].bytes);
    }
    std::vector<Float16> halves(weight.out_features * weight.groups());
    for (size_t i = 0; i < halves.size(); ++i) halves[i] = to_float16(weight.scales[i]);
    return file->append(halves.data(), item.outputs[1].bytes);
  }

  // Whether the codes and scales at `at` are those of `tensor`. Quantising it again to compare
  // would make a resumed run as long as a new one.
  bool same_matrix(const Item& item, const HostTensor& tensor, const std::byte* at,
                   std::vector<QuantizedTensor>* found) const {
    HostWeight weight =
        weight_form(item.tensor.format, DType::kF32, item.tensor.shape[0], item.tensor.shape[1]);
    weight.codes = at;
    const HostTensor scales{at + item.outputs[0].bytes,
                            weight.format == WeightFormat::kInt4 ? DType::kF16 : DType::kF32,
                            item.outputs[1].shape};
    std::vector<float> values(scales.elements());
    for (size_t i = 0; i < values.size(); ++i) values[i] = host_value(scales, i);
    weight.scales = values.data();
    if (!is_quantized_from(tensor, weight, options_.threads)) return false;
    found->push_back({item.tensor.name, item.tensor.format,
                      squared_error(tensor, weight, options_.threads).relative()});
    return true;
  }

  const QuantizeOptions& options_;
  Checkpoint& source_;
  QuantizeReport& report_;
};

// Tokenizer, generation_config.json and whatever else is small; no weights.
absl::Status copy_small_files(const QuantizeOptions& options,
                              const std::vector<std::string>& names) {
  constexpr std::string_view kOwn[] = {kConfig, kIndex, kReport, kMarker};
  constexpr std::string_view kWeights[] = {".safetensors", ".bin",  ".pt", ".pth",     ".pkl",
                                           ".ckpt",        ".gguf", ".h5", ".msgpack", ".onnx"};
  const auto holds = [](const auto& list, std::string_view what) {
    return std::find(std::begin(list), std::end(list), what) != std::end(list);
  };
  std::error_code error;
  for (const std::string& name : names) {
    const fs::path path = fs::path(options.source) / name;
    if (holds(kOwn, name) || holds(kWeights, path.extension().string())) continue;
    if (!fs::is_regular_file(path, error) || fs::file_size(path, error) > kMaxSmallFile) continue;
    const absl::StatusOr<std::string> content = read_file(options.source, name, kMaxSmallFile);
    if (!content.ok()) return content.status();
    const absl::Status status = write_file(options.destination, name, *content);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

std::string index_of(const std::vector<Shard>& shards) {
  json map = json::object();
  int64_t bytes = 0;
  for (const Shard& shard : shards) {
    bytes += shard.data_bytes;
    for (const Item* item : shard.items) {
      for (const OutputTensor& output : item->outputs) map[output.name] = shard.name;
    }
  }
  return json{{"metadata", {{"total_size", bytes}}}, {"weight_map", map}}.dump(2) + "\n";
}

std::string report_text(const QuantizeReport& report) {
  json tensors = json::array();
  for (const QuantizedTensor& tensor : report.tensors) {
    tensors.push_back({{"name", tensor.name},
                       {"format", format_name(tensor.format)},
                       {"relative_error", tensor.relative_error}});
  }
  return json{{"bytes_before", report.bytes_before},
              {"bytes_after", report.bytes_after},
              {"tensors", tensors}}
             .dump(2) +
         "\n";
}

// Index, report, and the configuration, which makes a checkpoint of it all.
absl::Status finish_directory(const QuantizeOptions& options, const std::vector<Shard>& shards,
                              const QuantizeReport& report, json config) {
  absl::Status status = write_file(options.destination, kIndex, index_of(shards));
  if (status.ok()) status = write_file(options.destination, kReport, report_text(report));
  config["quantization_config"] = quantization_label();
  if (status.ok()) status = write_file(options.destination, kConfig, config.dump(2) + "\n");
  return status;
}

absl::StatusOr<json> read_dense_config(const std::string& source) {
  const absl::StatusOr<std::string> text = read_file(source, kConfig, kMaxSmallFile);
  if (!text.ok()) return text.status();
  absl::StatusOr<json> config = parse_json(*text);
  if (!config.ok()) return config;
  const auto quantised = config->find("quantization_config");
  if (quantised == config->end() || quantised->is_null()) return config;
  return invalid_argument("ALREADY_QUANTIZED", "quantization_config",
                          source + ": is quantised already; give the dense checkpoint");
}

}  // namespace

absl::StatusOr<QuantizeReport> quantize_checkpoint(
    const QuantizeOptions& options,
    const std::function<void(int64_t done, int64_t total)>& progress) {
  const absl::StatusOr<json> config = read_dense_config(options.source);
  if (!config.ok()) return config.status();
  const absl::StatusOr<ModelConfig> model = read_model_config(options.source);
  if (!model.ok()) return model.status();
  absl::StatusOr<Checkpoint> source = Checkpoint::open(options.source);
  if (!source.ok()) return source.status();
  const absl::StatusOr<std::vector<Item>> items = list_items(*model, options.formats, &*source);
  if (!items.ok()) return items.status();
  const std::vector<Shard> shards = plan_shards(*items, options.shard_bytes);
  const absl::StatusOr<std::vector<std::string>> names = list_directory(options.source);
  if (!names.ok()) return names.status();
  const absl::StatusOr<DirectoryLock> lock =
      take_destination(options.destination, marker_of(options, *names));
  if (!lock.ok()) return lock.status();

  QuantizeReport report;
  report.shards = static_cast<int>(shards.size());
  for (const Item& item : *items) report.bytes_before += item.bytes;
  discard_leftovers(options.destination, shards, &report);
  absl::Status status = check_space(options, shards);
  if (status.ok()) status = copy_small_files(options, *names);
  if (!status.ok()) return status;
  Converter converter(options, &*source, &report);
  int64_t done = 0;
  const auto advance = [&](const Item& item) {
    done += item.bytes;
    if (progress) progress(done, report.bytes_before);
  };
  for (const Shard& shard : shards) {
    report.bytes_after += shard.data_bytes;
    std::error_code error;
    if (fs::exists(fs::path(options.destination) / shard.name, error)) {
      const absl::StatusOr<std::string> fault = converter.fault_of(shard);
      if (!fault.ok()) return fault.status();
      if (fault->empty()) {
        ++report.shards_kept;
        for (const Item* item : shard.items) advance(*item);
        continue;
      }
      discard(options.destination, shard, *fault, &report);
    }
    unfinish(options.destination);
    status = converter.write(shard, advance);
    if (!status.ok()) return status;
  }
  status = finish_directory(options, shards, report, *config);
  if (!status.ok()) return status;
  return report;
}

}  // namespace cogserve
