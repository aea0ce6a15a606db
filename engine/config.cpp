#include "engine/config.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>

#include "engine/base/error.hpp"
#include "engine/base/file.hpp"
#include "engine/base/json.hpp"

namespace cogserve {
namespace {

using nlohmann::json;

constexpr size_t kMaxConfigBytes = size_t{1} << 20;
constexpr char kConfigFile[] = "config.json";
constexpr char kGenerationFile[] = "generation_config.json";

// Bounds far above any model of this family; with them no product of two sizes leaves int64_t.
constexpr int kMaxLayers = 1024;
constexpr int kMaxWidth = 1 << 17;
constexpr int kMaxHeads = 1024;
constexpr int kMaxVocab = 1 << 22;
constexpr int kMaxPositions = 1 << 20;
constexpr int kMaxImageSize = 8192;
// Upstream's default where a config says nothing.
constexpr int kDefaultKvHeads = 8;

// Reads the values of one JSON object and keeps the first complaint, so that the reading code is a
// plain list of keys. A value that was refused reads as its fallback.
class KeyReader {
 public:
  KeyReader(std::string file, std::string prefix, const json& object, absl::Status* status)
      : file_(std::move(file)), prefix_(std::move(prefix)), object_(object), status_(status) {}

  bool has(const char* key) const {
    const auto found = object_.find(key);
    return found != object_.end() && !found->is_null();
  }

  int integer(const char* key, int min, int max) {
    if (!require(key)) return min;
    return checked_integer(key, object_[key], min, max);
  }
  int integer_or(const char* key, int fallback, int min, int max) {
    return has(key) ? integer(key, min, max) : fallback;
  }

  // [min, max], or (min, max] where `above_min`.
  float number(const char* key, double min, double max, bool above_min = false) {
    if (!require(key)) return static_cast<float>(max);
    const json& value = object_[key];
    const double number = value.is_number() ? value.get<double>() : std::nan("");
    if (!(above_min ? number > min : number >= min) || !(number <= max)) {
      refuse(key,
             "a number in " + std::string(above_min ? "(" : "[") + json(min).dump() + ", " +
                 json(max).dump() + "]",
             value);
    }
    return static_cast<float>(number);
  }
  float number_or(const char* key, float fallback, double min, double max, bool above_min = false) {
    return has(key) ? number(key, min, max, above_min) : fallback;
  }

  bool boolean_or(const char* key, bool fallback) {
    if (!has(key)) return fallback;
    if (!object_[key].is_boolean()) {
      refuse(key, "true or false", object_[key]);
      return fallback;
    }
    return object_[key].get<bool>();
  }

  // Must be one of `allowed`, where it is there at all.
  std::string choice_or(const char* key, std::string_view fallback,
                        std::initializer_list<std::string_view> allowed) {
    if (!has(key)) return std::string(fallback);
    const json& value = object_[key];
    std::string expected;
    for (std::string_view option : allowed) {
      if (value.is_string() && value.get_ref<const std::string&>() == option)
        return std::string(option);
      expected += (expected.empty() ? "'" : " or '") + std::string(option) + "'";
    }
    refuse(key, expected, value);
    return std::string(fallback);
  }

  std::string text_or(const char* key, std::string_view fallback) {
    if (!has(key)) return std::string(fallback);
    if (!object_[key].is_string()) {
      refuse(key, "a string", object_[key]);
      return std::string(fallback);
    }
    return object_[key].get<std::string>();
  }

  // One id or a list of 1 to 16 different ones.
  std::vector<int32_t> ids(const char* key, int vocab) {
    if (!require(key)) return {};
    const json& value = object_[key];
    if (value.is_array() && (value.empty() || value.size() > 16)) {
      refuse(key, "one id or a list of 1 to 16 ids", value);
      return {};
    }
    std::vector<int32_t> ids;
    std::set<int32_t> seen;
    for (const json& item : value.is_array() ? value : json::array({value})) {
      const int32_t id = checked_integer(key, item, 0, vocab - 1);
      if (seen.insert(id).second) ids.push_back(id);
    }
    return ids;
  }

  KeyReader object(const char* key) {
    static const json kEmpty = json::object();
    const bool found = require(key);
    if (found && !object_[key].is_object()) refuse(key, "an object", object_[key]);
    const json& child = found && object_[key].is_object() ? object_[key] : kEmpty;
    return KeyReader(file_, prefix_ + key + ".", child, status_);
  }

  // `holds`, or a complaint about `key`: "config.json: hidden_size: expected ..., got ...".
  void expect(bool holds, const char* key, const std::string& expected, const std::string& got) {
    if (holds || !status_->ok()) return;
    const std::string name = prefix_ + key;
    *status_ = invalid_argument("CONFIG_KEY", name,
                                file_ + ": " + name + ": expected " + expected + ", got " + got);
  }
  void expect(bool holds, const char* key, const std::string& expected, int64_t got) {
    expect(holds, key, expected, std::to_string(got));
  }

  const json& operator[](const char* key) const { return object_.at(key); }

 private:
  bool require(const char* key) {
    if (has(key)) return true;
    expect(false, key, "a value", "none");
    return false;
  }

  void refuse(const char* key, const std::string& expected, const json& value) {
    std::string got = value.dump(-1, ' ', true, json::error_handler_t::replace);
    if (got.size() > 80) got = got.substr(0, 77) + "...";
    expect(false, key, expected, got);
  }

  int checked_integer(const char* key, const json& value, int min, int max) {
    const bool integral = value.is_number_integer();
    const bool too_big = value.is_number_unsigned() &&
                         value.get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()};
    const int64_t number = integral && !too_big ? value.get<int64_t>() : int64_t{min} - 1;
    if (number >= min && number <= max) return static_cast<int>(number);
    refuse(key, "an integer in [" + std::to_string(min) + ", " + std::to_string(max) + "]", value);
    return min;
  }

  std::string file_;    // as in messages
  std::string prefix_;  // "vision_config." inside that object
  const json& object_;
  absl::Status* status_;
};

absl::StatusOr<json> read_json_object(const std::string& model_dir, const char* name) {
  const absl::StatusOr<std::string> text = read_file(model_dir, name, kMaxConfigBytes);
  if (!text.ok()) return text.status();
  absl::StatusOr<json> document = parse_json(*text);
  if (!document.ok()) {
    return invalid_argument("CONFIG_JSON", name,
                            std::string(name) + ": " + std::string(document.status().message()));
  }
  if (!document->is_object()) {
    return invalid_argument(
        "CONFIG_JSON", name,
        std::string(name) + ": expected a JSON object, got " + document->type_name());
  }
  return document;
}

VisionConfig read_vision(KeyReader keys) {
  VisionConfig vision;
  vision.layers = keys.integer("num_hidden_layers", 1, kMaxLayers);
  vision.hidden = keys.integer("hidden_size", 1, kMaxWidth);
  vision.heads = keys.integer("num_heads", 1, kMaxHeads);
  vision.intermediate = keys.integer("intermediate_size", 1, kMaxWidth);
  vision.patch = keys.integer("patch_size", 1, kMaxImageSize);
  vision.image_size = keys.integer("image_size", 1, kMaxImageSize);
  vision.layer_norm_eps = keys.number("layer_norm_eps", 0.0, 1.0, true);
  keys.choice_or("hidden_act", "gelu", {"gelu"});
  keys.integer_or("in_channels", 3, 3, 3);
  keys.expect(vision.hidden % vision.heads == 0, "hidden_size",
              "a multiple of num_heads = " + std::to_string(vision.heads), vision.hidden);
  keys.expect(vision.image_size % vision.patch == 0, "image_size",
              "a multiple of patch_size = " + std::to_string(vision.patch), vision.image_size);
  keys.expect(vision.grid() % 2 == 0, "image_size",
              "an even number of patches on each edge (they are merged 2x2)", vision.grid());
  const int positions = keys.integer("num_positions", 1, std::numeric_limits<int>::max());
  keys.expect(positions == vision.rows(), "num_positions",
              std::to_string(vision.rows()) + " (patches and the class row)", positions);
  return vision;
}

// Which of GPTQ's two conventions the zeros follow. AutoRound names its layouts by parts:
// "auto_round:auto_gptq" and "auto_round:gptq:exllamav2" are v1, "auto_round:exllamav2" is v2.
int read_zero_offset(bool auto_round, bool symmetric, KeyReader* keys) {
  if (!auto_round) {
    const char* key = keys->has("checkpoint_format") ? "checkpoint_format" : "format";
    return keys->choice_or(key, "gptq", {"gptq", "gptq_v2"}) == "gptq" ? 1 : 0;
  }
  const char* key = keys->has("packing_format") ? "packing_format" : "backend";
  const std::string packing = keys->text_or(key, "");
  keys->expect(packing.find("awq") == std::string::npos, key,
               "the packing of GPTQ (export as auto_round:auto_gptq)", "'" + packing + "'");
  keys->expect(symmetric || !packing.empty(), key, "a packing, to know how zeros are stored",
               "none");
  return packing.empty() || packing.find("gptq") != std::string::npos ? 1 : 0;
}

void read_gptq(KeyReader* keys, QuantizationConfig* quantization) {
  const int bits = keys->integer("bits", 1, 32);
  keys->expect(bits == 4, "bits", "4", bits);
  keys->choice_or("data_type", "int", {"int"});
  const int group_size = keys->integer("group_size", -1, kMaxWidth);
  keys->expect(group_size != 0, "group_size", "-1 (all inputs of a row) or more than 0",
               group_size);
  quantization->group_size = std::max(group_size, 0);
  quantization->symmetric = keys->boolean_or("sym", true);
  quantization->reordered = keys->boolean_or("desc_act", false);
  quantization->zero_offset =
      read_zero_offset(quantization->name != "gptq", quantization->symmetric, keys);
}

QuantizationConfig read_quantization(KeyReader keys) {
  QuantizationConfig quantization;
  quantization.name = keys.choice_or(
      "quant_method", "", {"cogserve", "bitsandbytes", "gptq", "auto-round", "intel/auto-round"});
  keys.expect(!quantization.name.empty(), "quant_method", "a value", "none");
  if (quantization.name == "cogserve") {
    quantization.method = QuantMethod::kCogserve;
    keys.integer("version", 1, 1);
    quantization.group_size = keys.integer("group_size", 128, 128);
  } else if (quantization.name == "bitsandbytes") {
    quantization.method = QuantMethod::kBitsandbytes;
    keys.expect(!keys.boolean_or("load_in_8bit", false), "load_in_8bit",
                "false (LLM.int8 is not read: take the 16-bit checkpoint)", "true");
    quantization.codebook = keys.choice_or("bnb_4bit_quant_type", "", {"fp4", "nf4"});
    if (keys.has("bnb_4bit_use_double_quant")) {
      quantization.nested = keys.boolean_or("bnb_4bit_use_double_quant", false);
    }
  } else {
    quantization.method = QuantMethod::kGptq;
    read_gptq(&keys, &quantization);
  }
  return quantization;
}

void check_architecture(KeyReader* keys) {
  constexpr char kKnown[] = "CogVLMForCausalLM";
  const json expected = json::array({kKnown});
  const json got = keys->has("architectures") ? (*keys)["architectures"] : json();
  keys->expect(got == expected, "architectures", expected.dump(),
               got.dump(-1, ' ', true, json::error_handler_t::replace).substr(0, 80));
}

void check_heads(const ModelConfig& config, KeyReader* keys) {
  keys->expect(config.hidden % config.heads == 0, "hidden_size",
               "a multiple of num_attention_heads = " + std::to_string(config.heads),
               config.hidden);
  keys->expect(config.heads % config.kv_heads == 0, "num_multi_query_heads",
               "a divisor of num_attention_heads = " + std::to_string(config.heads) +
                   " (8 where the key is absent)",
               config.kv_heads);
  keys->expect(config.head_dim() % 2 == 0, "hidden_size",
               "an even number of values per head (they are rotated in pairs)", config.head_dim());
}

// The end tokens of generation_config.json win over those of config.json, as upstream's generate().
absl::Status override_eos(const std::string& model_dir, ModelConfig* config) {
  absl::StatusOr<json> document = read_json_object(model_dir, kGenerationFile);
  if (absl::IsNotFound(document.status())) return absl::OkStatus();
  if (!document.ok()) return document.status();
  absl::Status status;
  KeyReader keys(kGenerationFile, "", *document, &status);
  if (keys.has("eos_token_id")) config->eos_ids = keys.ids("eos_token_id", config->vocab);
  return status;
}

}  // namespace

WeightFormats parse_weight_formats(std::string_view quantization, std::string_view vision_dtype,
                                   std::string_view lm_head_dtype) {
  const auto format_of = [](std::string_view name) {
    return name == "int4"   ? WeightFormat::kInt4
           : name == "int8" ? WeightFormat::kInt8
                            : WeightFormat::kDense;
  };
  WeightFormats formats;
  formats.decoder = format_of(quantization);
  formats.vision = vision_dtype == "auto" ? formats.decoder : format_of(vision_dtype);
  formats.head = format_of(lm_head_dtype);
  return formats;
}

absl::StatusOr<ModelConfig> read_model_config(const std::string& model_dir) {
  const absl::StatusOr<json> document = read_json_object(model_dir, kConfigFile);
  if (!document.ok()) return document.status();
  absl::Status status;
  KeyReader keys(kConfigFile, "", *document, &status);
  check_architecture(&keys);

  ModelConfig config;
  config.layers = keys.integer("num_hidden_layers", 1, kMaxLayers);
  config.hidden = keys.integer("hidden_size", 1, kMaxWidth);
  config.heads = keys.integer("num_attention_heads", 1, kMaxHeads);
  config.kv_heads = keys.integer_or("num_multi_query_heads", kDefaultKvHeads, 1, kMaxHeads);
  config.intermediate = keys.integer("intermediate_size", 1, kMaxWidth);
  config.vocab = keys.integer("vocab_size", 2, kMaxVocab);
  config.max_positions = keys.integer("max_position_embeddings", 1, kMaxPositions);
  config.rms_norm_eps = keys.number("rms_norm_eps", 0.0, 1.0, true);
  config.rope_theta = keys.number_or("rope_theta", config.rope_theta, 1.0, 1e12);
  config.bos_id = keys.integer("bos_token_id", 0, config.vocab - 1);
  config.image_id = keys.integer("pad_token_id", 0, config.vocab - 1);
  config.eos_ids = keys.ids("eos_token_id", config.vocab);
  config.dtype = keys.choice_or("torch_dtype", "", {"bfloat16", "float16", "float32"});
  config.template_name = keys.choice_or("template_version", "chat", {"chat", "vqa", "base"});
  keys.choice_or("hidden_act", "silu", {"silu"});
  check_heads(config, &keys);
  config.vision = read_vision(keys.object("vision_config"));
  if (keys.has("quantization_config")) {
    config.quantization = read_quantization(keys.object("quantization_config"));
  }
  if (!status.ok()) return status;
  status = override_eos(model_dir, &config);
  if (!status.ok()) return status;
  return config;
}

absl::StatusOr<GenerationConfig> read_generation_config(const std::string& model_dir) {
  const absl::StatusOr<json> document = read_json_object(model_dir, kGenerationFile);
  if (absl::IsNotFound(document.status())) return GenerationConfig{};
  if (!document.ok()) return document.status();
  absl::Status status;
  KeyReader keys(kGenerationFile, "", *document, &status);
  GenerationConfig config;
  config.temperature = keys.number_or("temperature", config.temperature, 0.0, 2.0);
  config.top_p = keys.number_or("top_p", config.top_p, 0.0, 1.0, true);
  config.top_k = keys.integer_or("top_k", config.top_k, 0, kMaxVocab);
  config.repetition_penalty =
      keys.number_or("repetition_penalty", config.repetition_penalty, 0.1, 2.0);
  if (!keys.boolean_or("do_sample", true)) config.temperature = 0.0f;
  if (!status.ok()) return status;
  return config;
}

}  // namespace cogserve
