// The readers of quantised matrices on arbitrary tensors: they refuse, or every element of what
// they yield can be computed.

#include <cstdint>
#include <cstdlib>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "engine/model/packed_matrix.hpp"

namespace {

using cogserve::QuantMethod;
using cogserve::StoredPart;
using cogserve::StoredType;

constexpr int64_t kOut = 8;
constexpr int64_t kIn = 16;

// The input, byte by byte; zeros after its end.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : at_(data), end_(data + size) {}

  uint8_t byte() { return at_ == end_ ? 0 : *at_++; }
  // Most tensors must be right for the interesting code to be reached.
  bool rarely() { return byte() >= 0xf0; }
  std::string text(size_t size) {
    std::string text;
    while (text.size() < size) text += static_cast<char>(byte());
    return text;
  }

 private:
  const uint8_t* at_;
  const uint8_t* end_;
};

// The tensors of one matrix, with the memory that they lie in.
class Tensors {
 public:
  explicit Tensors(Input* input) : input_(input) {}

  void add(const std::string& suffix, StoredType type, std::vector<int64_t> shape,
           const std::string& content = "") {
    if (input_->rarely()) return;
    if (input_->rarely()) type = static_cast<StoredType>(input_->byte() % 6);
    if (input_->rarely()) shape.push_back(1 + input_->byte() % 4);
    if (input_->rarely() && !shape.empty()) shape[0] = input_->byte();
    size_t bytes = cogserve::type_size(type);
    for (const int64_t size : shape) bytes *= static_cast<size_t>(size);
    const std::string stored = content.empty() ? input_->text(bytes) : content;
    std::vector<std::byte>& memory = memory_["p" + suffix];
    memory.assign(bytes, std::byte{0});  // exact, so that reading beyond it is caught
    for (size_t i = 0; i < bytes && i < stored.size(); ++i) {
      memory[i] = static_cast<std::byte>(stored[i]);
    }
    parts_["p" + suffix] = {
        {"p" + suffix, type, shape, 0, bytes}, "fuzz.safetensors", memory.data()};
  }

  std::optional<StoredPart> find(const std::string& name) const {
    const auto part = parts_.find(name);
    if (part == parts_.end()) return std::nullopt;
    return part->second;
  }

 private:
  Input* input_;
  std::map<std::string, std::vector<std::byte>> memory_;
  std::map<std::string, StoredPart> parts_;
};

void add_native(Tensors* tensors, bool int8) {
  tensors->add(".weight", int8 ? StoredType::kI8 : StoredType::kU8, {kOut, int8 ? kIn : kIn / 2});
  tensors->add(".weight_scale", int8 ? StoredType::kF32 : StoredType::kF16, {kOut, 1});
}

void add_bitsandbytes(Tensors* tensors, Input* input) {
  const bool nested = input->byte() % 2 == 0;
  std::string state = R"({"quant_type":"nf4","blocksize":8,"dtype":"float16","shape":[8,16])";
  if (nested) state += R"(,"nested_blocksize":4,"nested_offset":0.5,"nested_dtype":"float32")";
  state += "}";
  for (int changes = input->byte() % 4; changes > 0; --changes) {
    state[input->byte() % state.size()] = static_cast<char>(input->byte());
  }
  if (input->rarely()) state = input->text(input->byte());
  tensors->add(".weight", StoredType::kU8, {kOut * kIn / 2, 1});
  tensors->add(".weight.quant_state.bitsandbytes__nf4", StoredType::kU8,
               {static_cast<int64_t>(state.size())}, state);
  tensors->add(".weight.quant_map", StoredType::kF32, {16});
  tensors->add(".weight.absmax", nested ? StoredType::kU8 : StoredType::kF32, {16});
  if (!nested) return;
  tensors->add(".weight.nested_absmax", StoredType::kF32, {4});
  tensors->add(".weight.nested_quant_map", StoredType::kF32, {256});
}

void add_gptq(Tensors* tensors, Input* input) {
  tensors->add(".qweight", StoredType::kI32, {kIn / 8, kOut});
  tensors->add(".scales", StoredType::kF16, {2, kOut});
  tensors->add(".qzeros", StoredType::kI32, {2, kOut / 8},
               input->byte() % 2 == 0 ? std::string(8, '\x77') : "");
  std::string groups(kIn * 4, '\0');
  for (int64_t i = kIn / 2; i < kIn; ++i) groups[i * 4] = 1;
  tensors->add(".g_idx", StoredType::kI32, {kIn}, input->byte() % 4 != 0 ? groups : "");
}

void read(const Tensors& tensors, const cogserve::QuantizationConfig& label) {
  const auto refused = [](const absl::Status& status) {
    if (status.message().empty()) std::abort();
  };
  const auto matrix = cogserve::find_packed_matrix(
      "p", kOut, kIn, label, [&tensors](const std::string& name) { return tensors.find(name); });
  if (!matrix.ok()) return refused(matrix.status());
  if (*matrix == nullptr) return;
  const auto unpacked = (*matrix)->unpack();
  if (!unpacked.ok()) return refused(unpacked.status());
  const cogserve::HostWeight& weight = unpacked->weight;
  if (weight.out_features != kOut || weight.in_features != kIn) std::abort();
  float sum = 0.0f;
  for (int64_t row = 0; row < kOut; ++row) {
    for (int64_t col = 0; col < kIn; ++col) sum += cogserve::weight_value(weight, row, col);
  }
  volatile float kept = sum;
  (void)kept;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(data, size);
  Tensors tensors(&input);
  cogserve::QuantizationConfig label;
  const uint8_t choice = input.byte();
  label.symmetric = (choice & 16) != 0;
  label.zero_offset = (choice & 32) != 0;
  label.reordered = (choice & 64) != 0;
  if (choice % 4 == 0 || input.rarely()) {
    label.method = QuantMethod::kCogserve;
    label.group_size = 128;
    add_native(&tensors, (choice & 16) != 0);
  }
  if (choice % 4 == 1 || input.rarely()) {
    label.method = QuantMethod::kBitsandbytes;
    add_bitsandbytes(&tensors, &input);
  }
  if (choice % 4 == 2 || input.rarely()) {
    label.method = QuantMethod::kGptq;
    label.group_size = 8;
    add_gptq(&tensors, &input);
  }
  if (choice % 4 == 3) tensors.add(".weight", StoredType::kU8, {kOut, kIn});
  read(tensors, label);
  return 0;
}
