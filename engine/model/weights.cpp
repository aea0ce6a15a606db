#include "engine/model/weights.hpp"

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/base/check.hpp"
#include "engine/base/error.hpp"
#include "engine/model/quantize.hpp"

namespace cogserve {
namespace {

constexpr const char* kEmbedding = "model.embed_tokens.weight";

// How a tensor is brought into the backend's memory.
enum class Form {
  kMatrix,  // Weight
  kMerge,   // Weight of a 2x2 convolution [out, c, 2, 2]
  kVector,  // Parameter, f32 [1, n]
  kTable,   // Parameter in its own dtype, [rows, last dimension]
};

// One tensor of the layout and where it goes: `weight` for the first two forms, else `parameter`.
struct Slot {
  std::string name;
  std::vector<int64_t> shape;
  Form form;
  Weight* weight = nullptr;
  Parameter* parameter = nullptr;
  WeightFormat format = WeightFormat::kDense;  // what a matrix is quantised to

  int64_t elements() const { return HostTensor{nullptr, DType::kF32, shape}.elements(); }
};

// Lists the tensors of the published layout while it lays out `weights` for them.
class Layout {
 public:
  Layout(const ModelConfig& config, const WeightFormats& formats, ModelWeights* weights)
      : config_(config), formats_(formats) {
    list_decoder(&weights->decoder);
    list_vision(&weights->vision);
  }

  std::vector<Slot> take() { return std::move(slots_); }

 private:
  using Shape = std::vector<int64_t>;

  void matrix(const std::string& name, Shape shape, WeightFormat format, Linear* linear) {
    slots_.push_back(
        {name + ".weight", std::move(shape), Form::kMatrix, &linear->weight, nullptr, format});
  }
  void vector(const std::string& name, int64_t size, Parameter* parameter) {
    slots_.push_back({name, {size}, Form::kVector, nullptr, parameter});
  }
  void table(const std::string& name, Shape shape, Parameter* parameter) {
    slots_.push_back({name, std::move(shape), Form::kTable, nullptr, parameter});
  }
  void biased(const std::string& name, Shape shape, WeightFormat format, Linear* linear) {
    const int64_t out = shape[0];
    matrix(name, std::move(shape), format, linear);
    vector(name + ".bias", out, &linear->bias);
  }
  void rms_norm(const std::string& name, int64_t size, Norm* norm) {
    vector(name + ".weight", size, &norm->weight);
  }
  void layer_norm(const std::string& name, int64_t size, Norm* norm) {
    vector(name + ".weight", size, &norm->weight);
    vector(name + ".bias", size, &norm->bias);
  }

  void list_decoder(DecoderWeights* decoder) {
    const int64_t hidden = config_.hidden;
    table(kEmbedding, {config_.vocab, hidden}, &decoder->embedding);
    decoder->layers.resize(config_.layers);
    for (int i = 0; i < config_.layers; ++i) {
      const std::string layer = "model.layers." + std::to_string(i);
      DecoderLayerWeights& weights = decoder->layers[i];
      rms_norm(layer + ".input_layernorm", hidden, &weights.input_norm);
      rms_norm(layer + ".post_attention_layernorm", hidden, &weights.post_attention_norm);
      list_expert(layer, "language", &weights.language);
      list_expert(layer, "vision", &weights.vision);
      vector(layer + ".self_attn.vision_expert_query_key_value.bias", config_.qkv_width(),
             &weights.vision.qkv.bias);
    }
    rms_norm("model.norm", hidden, &decoder->norm);
    matrix("lm_head", {config_.vocab, hidden}, formats_.head, &decoder->head);
  }

  void list_expert(const std::string& layer, const std::string& kind, ExpertWeights* expert) {
    const int64_t hidden = config_.hidden;
    const std::string attention = layer + ".self_attn." + kind + "_expert_";
    const WeightFormat format = formats_.decoder;
    matrix(attention + "query_key_value", {config_.qkv_width(), hidden}, format, &expert->qkv);
    matrix(attention + "dense", {hidden, hidden}, format, &expert->dense);
    const std::string mlp = layer + ".mlp." + kind + "_mlp.";
    matrix(mlp + "gate_proj", {config_.intermediate, hidden}, format, &expert->mlp.gate);
    matrix(mlp + "up_proj", {config_.intermediate, hidden}, format, &expert->mlp.up);
    matrix(mlp + "down_proj", {hidden, config_.intermediate}, format, &expert->mlp.down);
  }

  void list_vision(VisionWeights* vision) {
    const VisionConfig& tower = config_.vision;
    const int64_t width = tower.hidden;
    const std::string patches = "model.vision.patch_embedding.";
    biased(patches + "proj", {width, 3, tower.patch, tower.patch}, WeightFormat::kDense,
           &vision->patch);
    table(patches + "cls_embedding", {1, width}, &vision->class_row);
    table(patches + "position_embedding.weight", {tower.rows(), width}, &vision->positions);
    vision->layers.resize(tower.layers);
    const WeightFormat format = formats_.vision;
    for (int i = 0; i < tower.layers; ++i) {
      const std::string layer = "model.vision.transformer.layers." + std::to_string(i);
      VisionLayerWeights& weights = vision->layers[i];
      biased(layer + ".attention.query_key_value", {3 * width, width}, format, &weights.qkv);
      biased(layer + ".attention.dense", {width, width}, format, &weights.dense);
      layer_norm(layer + ".input_layernorm", width, &weights.attention_norm);
      biased(layer + ".mlp.fc1", {tower.intermediate, width}, format, &weights.fc1);
      biased(layer + ".mlp.fc2", {width, tower.intermediate}, format, &weights.fc2);
      layer_norm(layer + ".post_attention_layernorm", width, &weights.mlp_norm);
    }
    slots_.push_back({"model.vision.conv.weight",
                      {width, width, 2, 2},
                      Form::kMerge,
                      &vision->merge.weight,
                      nullptr});
    vector("model.vision.conv.bias", width, &vision->merge.bias);
    list_adapter(vision);
  }

  void list_adapter(VisionWeights* vision) {
    const int64_t hidden = config_.hidden;
    const std::string adapter = "model.vision.linear_proj.";
    const WeightFormat format = formats_.vision;
    matrix(adapter + "linear_proj", {hidden, config_.vision.hidden}, format, &vision->projection);
    layer_norm(adapter + "norm1", hidden, &vision->projection_norm);
    matrix(adapter + "gate_proj", {config_.intermediate, hidden}, format, &vision->mlp.gate);
    matrix(adapter + "dense_h_to_4h", {config_.intermediate, hidden}, format, &vision->mlp.up);
    matrix(adapter + "dense_4h_to_h", {hidden, config_.intermediate}, format, &vision->mlp.down);
    table("model.vision.boi", {1, 1, hidden}, &vision->boi);
    table("model.vision.eoi", {1, 1, hidden}, &vision->eoi);
  }

  const ModelConfig& config_;
  const WeightFormats& formats_;
  std::vector<Slot> slots_;
};

// [out, c, 2, 2] -> [out, 2 * 2 * c]: the convolution as a matrix over merge_2x2's rows, which hold
// the four cells one after the other.
std::vector<std::byte> cells_first(const HostTensor& source) {
  const int64_t out = source.shape[0];
  const int64_t channels = source.shape[1];
  const size_t size = dtype_size(source.dtype);
  std::vector<std::byte> permuted(source.elements() * size);
  std::byte* to = permuted.data();
  for (int64_t o = 0; o < out; ++o) {
    for (int64_t cell = 0; cell < 4; ++cell) {
      for (int64_t c = 0; c < channels; ++c, to += size) {
        std::memcpy(to, source.data + ((o * channels + c) * 4 + cell) * size, size);
      }
    }
  }
  return permuted;
}

// Of the elements alone: beside them, scales are few.
int64_t stored_bytes(const StoredTensor& stored) {
  const int64_t elements = HostTensor{nullptr, stored.dtype, stored.shape}.elements();
  if (stored.format == WeightFormat::kInt8) return elements;
  if (stored.format != WeightFormat::kDense) return elements / 2;
  return elements * static_cast<int64_t>(dtype_size(stored.dtype));
}

absl::StatusOr<HostWeight> read_slot(WeightSource* source, const Slot& slot,
                                     const StoredTensor& stored) {
  if (slot.form == Form::kMatrix) return source->read_weight(stored);
  absl::StatusOr<HostTensor> tensor = source->read(stored);
  if (!tensor.ok()) return tensor.status();
  return dense_weight(*std::move(tensor));
}

absl::Status load_matrix(Backend* backend, const HostWeight& source, Weight* to) {
  absl::StatusOr<Weight> weight = backend->load_weight(source);
  if (!weight.ok()) return weight.status();
  *to = std::move(*weight);
  return absl::OkStatus();
}

absl::Status load_merge(Backend* backend, const HostTensor& tensor, Weight* to) {
  const std::vector<std::byte> permuted = cells_first(tensor);
  const std::vector<int64_t> shape = {tensor.shape[0], 4 * tensor.shape[1]};
  return load_matrix(backend, dense_weight({permuted.data(), tensor.dtype, shape}), to);
}

// Quantises what is dense and shall not be. `file` holds it.
absl::Status load_slot(Backend* backend, const Slot& slot, const HostWeight& content,
                       const std::string& file, int threads) {
  if (slot.form == Form::kMerge) return load_merge(backend, content.dense, slot.weight);
  if (slot.form == Form::kMatrix) {
    if (slot.format == WeightFormat::kDense || content.format != WeightFormat::kDense) {
      return load_matrix(backend, content, slot.weight);
    }
    const auto quantized =
        QuantizedMatrix::quantize(content.dense, slot.name, slot.format, threads);
    if (!quantized.ok()) return in_file(file, quantized.status());
    return load_matrix(backend, quantized->weight(), slot.weight);
  }
  HostTensor tensor = content.dense;
  if (slot.form == Form::kTable) {
    tensor.shape = {tensor.elements() / tensor.shape.back(), tensor.shape.back()};
  }
  absl::StatusOr<Parameter> parameter =
      slot.form == Form::kTable ? backend->load_table(tensor) : backend->load_vector(tensor);
  if (!parameter.ok()) return parameter.status();
  *slot.parameter = std::move(*parameter);
  return absl::OkStatus();
}

absl::StatusOr<StoredTensor> require_slot(WeightSource* source, const Slot& slot) {
  return slot.form == Form::kMatrix ? source->require_weight(slot.name, slot.shape)
                                    : source->require(slot.name, slot.shape);
}

absl::Status check_groups(const DeviceTraits& traits, const Slot& slot,
                          const StoredTensor& stored) {
  const int64_t in = slot.elements() / slot.shape[0];
  const bool many = stored.format != WeightFormat::kDense && stored.group_size < in;
  if (!many || stored.group_size % traits.group_multiple == 0) return absl::OkStatus();
  return invalid_argument(
      "CHECKPOINT_QUANT_GROUP", slot.name,
      absl::StrCat("tensor '", slot.name, "': expected groups of a multiple of ",
                   traits.group_multiple, " inputs on this device, got ", stored.group_size,
                   "; --device cpu takes any"));
}

// Bytes that load_slot allocates.
size_t slot_bytes(const DeviceTraits& traits, const Slot& slot, const StoredTensor& stored) {
  const int64_t elements = slot.elements();
  if (slot.form == Form::kVector) return traits.vector_bytes(elements);
  if (slot.form == Form::kTable) return elements * dtype_size(stored.dtype);
  const int64_t out = slot.shape[0];
  if (stored.format == WeightFormat::kDense) {
    return traits.weight_bytes(weight_form(slot.format, stored.dtype, out, elements / out));
  }
  HostWeight form = weight_form(stored.format, stored.dtype, out, elements / out);
  form.group_size = stored.group_size;
  form.has_zeros = stored.has_zeros;
  form.scale_dtype = stored.scale_dtype;
  return traits.weight_bytes(form);
}

}  // namespace

absl::StatusOr<ModelWeights> load_weights(Backend* backend, const ModelConfig& config,
                                          WeightSource* source, const LoadProgress& progress,
                                          const Quantization& quantization) {
  // On the heap: slots point into it while it is filled.
  const auto weights = std::make_unique<ModelWeights>();
  const std::vector<Slot> slots = Layout(config, quantization.formats, weights.get()).take();

  std::vector<std::pair<StoredTensor, const Slot*>> plan;
  int64_t total = 0;
  for (const Slot& slot : slots) {
    absl::StatusOr<StoredTensor> stored = require_slot(source, slot);
    if (!stored.ok()) return stored.status();
    total += stored_bytes(*stored);
    plan.emplace_back(std::move(*stored), &slot);
  }
  const absl::Status complete = source->finish();
  if (!complete.ok()) return complete;

  std::sort(plan.begin(), plan.end(),
            [](const auto& a, const auto& b) { return a.first.order < b.first.order; });
  int64_t done = 0;
  for (const auto& [stored, slot] : plan) {
    const absl::StatusOr<HostWeight> content = read_slot(source, *slot, stored);
    if (!content.ok()) return content.status();
    const absl::Status loaded =
        load_slot(backend, *slot, *content, source->file_of(stored), quantization.threads);
    if (!loaded.ok()) return loaded;
    source->release(stored);
    done += stored_bytes(stored);
    if (progress) progress(done, total);
  }
  return std::move(*weights);
}

absl::StatusOr<WeightBytes> measure_weights(const DeviceTraits& traits, const ModelConfig& config,
                                            const WeightFormats& formats, WeightSource* source) {
  ModelWeights weights;
  WeightBytes bytes;
  for (const Slot& slot : Layout(config, formats, &weights).take()) {
    const absl::StatusOr<StoredTensor> stored = require_slot(source, slot);
    if (!stored.ok()) return stored.status();
    if (absl::Status fit = check_groups(traits, slot, *stored); !fit.ok()) return fit;
    int64_t& side = slot.name.starts_with("model.vision.") ? bytes.vision : bytes.decoder;
    side += static_cast<int64_t>(slot_bytes(traits, slot, *stored));
    if (slot.name == kEmbedding) bytes.stored = stored->dtype;
  }
  if (absl::Status complete = source->finish(); !complete.ok()) return complete;
  return bytes;
}

std::string describe_weights(const ModelWeights& weights) {
  using Formats = std::set<WeightFormat>;
  const auto add = [](std::initializer_list<const Linear*> matrices, Formats* formats) {
    for (const Linear* matrix : matrices) formats->insert(matrix->weight.format);
  };
  Formats decoder;
  for (const DecoderLayerWeights& layer : weights.decoder.layers) {
    for (const ExpertWeights* expert : {&layer.language, &layer.vision}) {
      const GatedMlp& mlp = expert->mlp;
      add({&expert->qkv, &expert->dense, &mlp.gate, &mlp.up, &mlp.down}, &decoder);
    }
  }
  Formats vision;
  for (const VisionLayerWeights& layer : weights.vision.layers) {
    add({&layer.qkv, &layer.dense, &layer.fc1, &layer.fc2}, &vision);
  }
  const GatedMlp& adapter = weights.vision.mlp;
  add({&weights.vision.projection, &adapter.gate, &adapter.up, &adapter.down}, &vision);
  const Formats head = {weights.decoder.head.weight.format};
  std::string text;
  for (const auto& [part, formats] :
       {std::pair("decoder", decoder), std::pair("vision", vision), std::pair("lm_head", head)}) {
    if (formats == Formats{WeightFormat::kDense}) continue;
    const auto name = [](std::string* to, WeightFormat format) { to->append(format_name(format)); };
    absl::StrAppend(&text, part, " ", absl::StrJoin(formats, "/", name), ", ");
  }
  return text + (text.empty() ? "" : "else ") +
         std::string(dtype_name(weights.decoder.embedding.tensor.dtype));
}

std::vector<ModelTensor> list_tensors(const ModelConfig& config, const WeightFormats& formats) {
  ModelWeights weights;
  std::vector<ModelTensor> tensors;
  for (Slot& slot : Layout(config, formats, &weights).take()) {
    tensors.push_back({std::move(slot.name), std::move(slot.shape), slot.format});
  }
  return tensors;
}

}  // namespace cogserve
