// Hostile and unreadable quantised matrices: one Linear "p" whose tensors are damaged one way each.

#include "engine/model/packed_matrix.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "engine/base/error.hpp"
#include "engine/model/checkpoint.hpp"
#include "tests/engine/tiny_checkpoint.hpp"
#include "tests/temporary_directory.hpp"

namespace cogserve {
namespace {

using nlohmann::json;
using testing::HasSubstr;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr char kNf4State[] = "p.weight.quant_state.bitsandbytes__nf4";

// A matrix to be damaged, with what the model and config.json say of it.
struct Matrix {
  std::vector<TinyTensor> tensors;
  std::vector<int64_t> shape;
  QuantizationConfig label;

  TinyTensor& operator[](const std::string& name) {
    for (TinyTensor& tensor : tensors) {
      if (tensor.name == name) return tensor;
    }
    ADD_FAILURE() << "no tensor " << name;
    return tensors.front();
  }
  void erase(const std::string& name) {
    std::erase_if(tensors, [&](const TinyTensor& tensor) { return tensor.name == name; });
  }
};

template <typename T>
std::string bytes_of(const std::vector<T>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

// Element `index` of an f32 tensor.
void set_value(TinyTensor* tensor, size_t index, float value) {
  tensor->content.resize(tensor->bytes(), '\0');
  std::memcpy(tensor->content.data() + index * sizeof value, &value, sizeof value);
}

// [8, 16] in blocks of 8.
json nf4_state() {
  return {{"quant_type", "nf4"}, {"blocksize", 8}, {"dtype", "bfloat16"}, {"shape", {8, 16}}};
}

json nested_state() {
  json state = nf4_state();
  state.update({{"nested_blocksize", 4}, {"nested_dtype", "float32"}, {"nested_offset", 0.25}});
  return state;
}

void describe(Matrix* matrix, const std::string& text) {
  TinyTensor& state = (*matrix)[kNf4State];
  state.shape = {static_cast<int64_t>(text.size())};
  state.content = text;
}

Matrix nf4() {
  Matrix matrix{{{"p.weight", "U8", {64, 1}},
                 {"p.weight.absmax", "F32", {16}},
                 {"p.weight.quant_map", "F32", {16}},
                 {kNf4State, "U8", {1}}},
                {8, 16},
                {.method = QuantMethod::kBitsandbytes, .name = "bitsandbytes"}};
  describe(&matrix, nf4_state().dump());
  return matrix;
}

Matrix nested() {
  Matrix matrix = nf4();
  matrix["p.weight.absmax"].dtype = "U8";
  matrix.tensors.push_back({"p.weight.nested_absmax", "F32", {4}});
  matrix.tensors.push_back({"p.weight.nested_quant_map", "F32", {256}});
  describe(&matrix, nested_state().dump());
  return matrix;
}

// [8, 200]: a group of 128 and one of 72.
Matrix int4() {
  return {{{"p.weight", "U8", {8, 100}}, {"p.weight_scale", "F16", {8, 2}}},
          {8, 200},
          {.method = QuantMethod::kCogserve, .name = "cogserve", .group_size = 128}};
}

Matrix int8() {
  Matrix matrix = int4();
  matrix.tensors = {{"p.weight", "I8", {8, 200}}, {"p.weight_scale", "F32", {8, 1}}};
  return matrix;
}

// [8, 24] in groups of 16, symmetric by the first convention.
Matrix gptq() {
  std::vector<int32_t> group_index;
  for (int32_t i = 0; i < 24; ++i) group_index.push_back(i / 16);
  return {{{"p.qweight", "I32", {3, 8}},
           {"p.scales", "F16", {2, 8}},
           {"p.qzeros", "I32", {2, 1}, std::string(8, '\x77')},
           {"p.g_idx", "I32", {24}, bytes_of(group_index)}},
          {8, 24},
          {.method = QuantMethod::kGptq, .name = "gptq", .group_size = 16}};
}

// Looked for, checked for left-overs and unpacked, as a start would.
absl::Status load(const Matrix& matrix) {
  const TemporaryDirectory directory;
  directory.write("model.safetensors", safetensors_file(matrix.tensors));
  absl::StatusOr<Checkpoint> checkpoint = Checkpoint::open(directory.path(), matrix.label);
  if (!checkpoint.ok()) return checkpoint.status();
  const auto stored = checkpoint->require_weight("p.weight", matrix.shape);
  if (!stored.ok()) return stored.status();
  if (absl::Status finished = checkpoint->finish(); !finished.ok()) return finished;
  return checkpoint->read_weight(*stored).status();
}

TEST(PackedMatrix, the_undamaged_ones_are_taken) {
  for (const auto& make : {nf4, nested, int4, int8, gptq}) {
    EXPECT_TRUE(load(make()).ok()) << load(make());
  }
}

struct Hostile {
  std::string what;
  std::function<Matrix()> make;
  std::function<void(Matrix&)> damage;
  std::string reason;
  std::string tensor;  // that must be named
  std::string said;
};

using Cases = std::vector<Hostile>;

// A tensor of another type or shape, or none at all where `dtype` is empty.
void add_tensor(Cases* cases, const std::function<Matrix()>& make, const std::string& tensor,
                const std::string& dtype, const std::vector<int64_t>& shape,
                const std::string& said) {
  const bool missing = dtype.empty();
  const bool right_type = said.substr(0, said.find(", got")).find(dtype) != said.npos;
  cases->push_back({tensor + " " + dtype + " " + shape_string(shape), make,
                    [=](Matrix& m) {
                      if (missing) return m.erase(tensor);
                      m[tensor].dtype = dtype;
                      m[tensor].shape = shape;
                      m[tensor].content.clear();
                    },
                    missing      ? "CHECKPOINT_MISSING_TENSOR"
                    : right_type ? "CHECKPOINT_SHAPE"
                                 : "CHECKPOINT_DTYPE",
                    tensor, said});
}

void add_missing_tensors(Cases* cases) {
  const auto add = [cases](auto make, const std::string& tensor, const std::string& said) {
    add_tensor(cases, make, tensor, "", {}, said);
  };
  for (const char* part : {"p.weight", "p.weight.absmax", "p.weight.quant_map", kNf4State}) {
    add(nf4, part, "with the other tensors of this quantised matrix, got none");
  }
  for (const char* part : {"p.weight.nested_absmax", "p.weight.nested_quant_map"}) {
    add(nested, part, "with the other tensors of this quantised matrix, got none");
  }
  for (const char* part : {"p.qweight", "p.scales", "p.qzeros"}) {
    add(gptq, part, "with the other tensors of this quantised matrix, got none");
  }
  add(int4, "p.weight", "expected U8 [8, 100]");
  add(int4, "p.weight_scale", "expected F16 [8, 2]");
  add(int8, "p.weight_scale", "expected F32 [8, 1]");
}

void add_wrong_tensors(Cases* cases) {
  const auto add = [cases](auto make, const std::string& tensor, const std::string& dtype,
                           const std::vector<int64_t>& shape, const std::string& said) {
    add_tensor(cases, make, tensor, dtype, shape, said);
  };
  add(nf4, "p.weight", "U8", {63, 1}, "expected U8 [64, 1], got U8 [63, 1]");
  add(nf4, "p.weight", "U8", {64}, "expected U8 [64, 1], got U8 [64]");
  add(nf4, "p.weight", "U8", {8, 8}, "expected U8 [64, 1], got U8 [8, 8]");
  add(nf4, "p.weight", "F32", {64, 1}, "expected F32 [16, 1], got F32 [64, 1]");
  add(nf4, "p.weight", "BF16", {8, 16}, "expected BF16 [32, 1], got BF16 [8, 16]");
  add(nf4, "p.weight.absmax", "F32", {15}, "expected F32 [16], got F32 [15]");
  add(nf4, "p.weight.absmax", "F16", {16}, "expected F32 [16], got F16 [16]");
  add(nf4, "p.weight.absmax", "U8", {16}, "expected F32 [16], got U8 [16]");
  add(nested, "p.weight.absmax", "F32", {16}, "expected U8 [16], got F32 [16]");
  add(nf4, "p.weight.quant_map", "F32", {15}, "expected F32 [16], got F32 [15]");
  add(nf4, "p.weight.quant_map", "BF16", {16}, "expected F32 [16], got BF16 [16]");
  add(nested, "p.weight.nested_absmax", "F32", {16}, "expected F32 [4], got F32 [16]");
  add(nested, "p.weight.nested_quant_map", "F32", {255}, "expected F32 [256], got F32 [255]");
  add(nf4, kNf4State, "I8", {20}, "expected U8 [length], got I8 [20]");
  add(nf4, kNf4State, "U8", {1, 20}, "expected U8 [length], got U8 [1, 20]");

  add(int4, "p.weight", "F32", {8, 200}, "expected U8 [8, 100], got F32 [8, 200]");
  add(int4, "p.weight", "U8", {8, 200}, "expected U8 [8, 100], got U8 [8, 200]");
  add(int4, "p.weight_scale", "F32", {8, 2}, "expected F16 [8, 2], got F32 [8, 2]");
  add(int4, "p.weight_scale", "F16", {8, 1}, "expected F16 [8, 2], got F16 [8, 1]");
  add(int8, "p.weight", "I8", {8, 100}, "expected I8 [8, 200], got I8 [8, 100]");
  add(int8, "p.weight_scale", "F16", {8, 1}, "expected F32 [8, 1], got F16 [8, 1]");
  add(int8, "p.weight_scale", "F32", {8}, "expected F32 [8, 1], got F32 [8]");

  add(gptq, "p.qweight", "F32", {3, 8}, "expected I32 [3, 8], got F32 [3, 8]");
  add(gptq, "p.qweight", "I32", {6, 8}, "expected I32 [3, 8], got I32 [6, 8]");  // 8 bits
  add(gptq, "p.qweight", "I32", {8, 3}, "expected I32 [3, 8], got I32 [8, 3]");
  add(gptq, "p.scales", "I32", {2, 8}, "expected F16 or BF16 or F32 [2, 8], got I32 [2, 8]");
  add(gptq, "p.scales", "F16", {1, 8}, "expected F16 or BF16 or F32 [2, 8], got F16 [1, 8]");
  add(gptq, "p.qzeros", "I32", {2, 8}, "expected I32 [2, 1], got I32 [2, 8]");
  add(gptq, "p.qzeros", "F16", {2, 1}, "expected I32 [2, 1], got F16 [2, 1]");
  add(gptq, "p.g_idx", "I32", {16}, "expected I32 [24], got I32 [16]");
  add(gptq, "p.g_idx", "U8", {24}, "expected I32 [24], got U8 [24]");
}

// Descriptions that are no JSON, or JSON of something else.
void add_wrong_states(Cases* cases) {
  const auto add_text = [cases](const std::string& text, const std::string& said) {
    cases->push_back({text.substr(0, 40), nf4, [text](Matrix& m) { describe(&m, text); },
                      "CHECKPOINT_QUANT_STATE", kNf4State, said});
  };
  const std::string whole = nf4_state().dump();
  add_text("", "expected a JSON object, got invalid JSON at byte");
  add_text(whole.substr(0, whole.size() / 2), "got invalid JSON");
  add_text(whole + "x", "got invalid JSON");
  add_text("{\"quant_type\": \"nf4\xff\"}", "got invalid JSON");
  add_text(std::string(5000, '['), "nested deeper than 2 levels");
  add_text(R"({"shape": [[8, 16]]})", "nested deeper than 2 levels");
  add_text("[]", "expected a JSON object, got array");
  add_text(R"({"blocksize": 8, "blocksize": 16})", "occurs twice");
  add_text(R"({"blocksize": 1e999})", "got invalid JSON");
  add_text(whole + std::string(65536, ' '), "expected at most 65536 bytes of JSON, got ");

  const auto add = [cases](json state, const std::string& key, const json& value,
                           const std::string& said) {
    state[key] = value;
    if (value.is_null()) state.erase(key);
    const bool is_nested = state.contains("nested_blocksize") || key.starts_with("nested");
    cases->push_back({key + " " + value.dump(), is_nested ? nested : nf4,
                      [state](Matrix& m) { describe(&m, state.dump()); }, "CHECKPOINT_QUANT_STATE",
                      kNf4State, key + ": expected " + said});
  };
  for (const json& value : {json(), json(0), json(-8), json(8.0), json("8"), json(1e30),
                            json(18446744073709551615u), json::array({8})}) {
    add(nf4_state(), "blocksize", value, "a whole number above 0, got " + value.dump());
    add(nested_state(), "nested_blocksize", value, "a whole number above 0, got " + value.dump());
  }
  for (const json& value : {json(), json(128), json("8x16"), json::array({128}),
                            json::array({8, 16, 1}), json::object()}) {
    add(nf4_state(), "shape", value, "[out, in], got " + value.dump());
  }
  add(nf4_state(), "shape", {-8, 16}, "a whole number above 0, got -8");
  add(nf4_state(), "shape", {8, 16.5}, "a whole number above 0, got 16.5");
  add(nf4_state(), "dtype", "int8", "\"bfloat16\", \"float16\" or \"float32\", got \"int8\"");
  add(nf4_state(), "dtype", nullptr, "a string, got null");
  add(nf4_state(), "quant_type", "int4", "\"fp4\" or \"nf4\", got \"int4\"");
  add(nf4_state(), "quant_type", 4, "a string, got 4");
  add(nf4_state(), "quant_type", "fp4", "\"nf4\" as in the tensor's name, got \"fp4\"");
  add(nested_state(), "nested_offset", nullptr, "a finite f32 number, got null");
  add(nested_state(), "nested_offset", "0.25", "a finite f32 number, got \"0.25\"");
  add(nested_state(), "nested_offset", 1e39, "a finite f32 number, got 1e+39");
  add(nested_state(), "nested_dtype", "float16", "\"float32\", got \"float16\"");
}

// Well-formed descriptions that contradict the model.
void add_wrong_shapes(Cases* cases) {
  const auto add = [cases](const std::string& key, const json& value, const std::string& reason,
                           const std::string& said) {
    json state = nf4_state();
    state[key] = value;
    cases->push_back({key + " " + value.dump(), nf4,
                      [state](Matrix& m) { describe(&m, state.dump()); }, reason, kNf4State, said});
  };
  add("shape", {16, 8}, "CHECKPOINT_SHAPE", "shape: expected [8, 16], got [16, 8]");
  add("shape", {8, 17}, "CHECKPOINT_SHAPE", "shape: expected [8, 16], got [8, 17]");
  add("shape", {4294967296, 4294967296}, "CHECKPOINT_SHAPE", "expected [8, 16], got [4294967296");
  for (const int64_t size : {int64_t{32}, int64_t{128}, int64_t{5}, int64_t{1} << 40, INT64_MAX}) {
    add("blocksize", size, "CHECKPOINT_QUANT_UNSUPPORTED",
        "whole blocks in each row, got 16 inputs in blocks of " + std::to_string(size));
  }
  cases->push_back({"nested_blocksize beyond all", nested,
                    [](Matrix& m) {
                      json state = nested_state();
                      state["nested_blocksize"] = INT64_MAX;
                      describe(&m, state.dump());
                    },
                    "CHECKPOINT_SHAPE", "p.weight.nested_absmax", "expected F32 [1], got F32 [4]"});
  cases->push_back({"odd inputs of nf4", nf4,
                    [](Matrix& m) {
                      m.shape = {8, 15};
                      json state = nf4_state();
                      state.update({{"shape", {8, 15}}, {"blocksize", 5}});
                      describe(&m, state.dump());
                    },
                    "CHECKPOINT_QUANT_UNSUPPORTED", kNf4State,
                    "expected an even number of inputs"});
  cases->push_back({"odd inputs of int4", int4,
                    [](Matrix& m) {
                      m.shape = {8, 201};
                    },
                    "CHECKPOINT_QUANT_UNSUPPORTED", "p.weight",
                    "expected an even number of inputs for int4, got 201"});
  cases->push_back({"inputs that fill no word", gptq,
                    [](Matrix& m) {
                      m.shape = {8, 28};
                    },
                    "CHECKPOINT_QUANT_UNSUPPORTED", "p.qweight", "got 28 inputs and 8 outputs"});
  cases->push_back({"outputs that fill no word", gptq,
                    [](Matrix& m) {
                      m.shape = {12, 24};
                      m["p.qweight"].shape = {3, 12};
                    },
                    "CHECKPOINT_QUANT_UNSUPPORTED", "p.qweight", "got 24 inputs and 12 outputs"});
}

// Numbers that are none, or mean what is not read.
void add_wrong_values(Cases* cases) {
  const auto add = [cases](auto make, const std::string& tensor, size_t index, float value,
                           const std::string& named, const std::string& said) {
    cases->push_back({tensor + " " + std::to_string(value), make,
                      [=](Matrix& m) { set_value(&m[tensor], index, value); },
                      "CHECKPOINT_QUANT_VALUE", named, said});
  };
  add(nf4, "p.weight.absmax", 15, kNaN, "p.weight.absmax", "got nan at element 15");
  add(nf4, "p.weight.absmax", 0, kInf, "p.weight.absmax", "got inf at element 0");
  add(nf4, "p.weight.quant_map", 3, kNaN, "p.weight.quant_map", "got nan at element 3");
  add(nested, "p.weight.nested_absmax", 1, kNaN, "p.weight.absmax", "got nan from element 4");
  add(nested, "p.weight.nested_quant_map", 0, -kInf, "p.weight.absmax", "expected finite scales");
  add(int8, "p.weight_scale", 7, kInf, "p.weight_scale", "got inf at element 7");

  const auto damaged = [cases](auto make, const std::string& tensor, const std::string& content,
                               const std::string& reason, const std::string& said) {
    cases->push_back({tensor + " of other content", make,
                      [=](Matrix& m) { m[tensor].content = content; }, reason, tensor, said});
  };
  damaged(int4, "p.weight_scale", "\1\x7c", "CHECKPOINT_QUANT_VALUE", "got nan at element 0");
  damaged(gptq, "p.scales", std::string("\0\0\0\x7c", 4), "CHECKPOINT_QUANT_VALUE",
          "got inf at element 1");
  damaged(int8, "p.weight", std::string(3, '\x81') + '\x80', "CHECKPOINT_QUANT_VALUE",
          "expected -127 to 127, got -128 at element 3");
  damaged(gptq, "p.qzeros", "\x77\x77\x77\x77\x77\x57\x77\x77", "CHECKPOINT_QUANT_LABEL",
          "as config.json says sym, got 5 for output 3, group 1");
  damaged(gptq, "p.qzeros", "\x88\x88\x88\x88\x77\x77\x77\x77", "CHECKPOINT_QUANT_LABEL",
          "as config.json says sym, got 7 for output 0, group 1");
  damaged(gptq, "p.qzeros", "", "CHECKPOINT_QUANT_LABEL", "got 0 for output 0, group 0");
  for (const int offset : {0, 1}) {  // of the other convention
    cases->push_back({"zeros one beside the middle", gptq,
                      [offset](Matrix& m) {
                        m.label.symmetric = false;
                        m.label.zero_offset = offset;
                        m["p.qzeros"].content = std::string(8, offset == 1 ? '\x88' : '\x77');
                      },
                      "CHECKPOINT_QUANT_LABEL", "p.qzeros",
                      offset == 1 ? "less 1, as gptq stores them, got 8" : "as they are, got 7"});
  }
  const auto index = [&](int32_t at, int32_t group, const std::string& reason,
                         const std::string& said) {
    std::string content = gptq()["p.g_idx"].content;
    std::memcpy(content.data() + at * 4, &group, 4);
    damaged(gptq, "p.g_idx", content, reason, said);
  };
  index(5, 2, "CHECKPOINT_QUANT_VALUE", "expected groups 0 to 1, got 2 for input 5");
  index(0, -1, "CHECKPOINT_QUANT_VALUE", "expected groups 0 to 1, got -1 for input 0");
  index(23, INT32_MIN, "CHECKPOINT_QUANT_VALUE", "got -2147483648 for input 23");
  index(15, 1, "CHECKPOINT_QUANT_UNSUPPORTED",
        "expected group 0 for input 15, got 1: inputs in the order of desc_act are not read");
}

// Tensors that do not go together.
void add_wrong_company(Cases* cases) {
  const auto add = [cases](auto make, const std::string& what, const TinyTensor& more,
                           const std::string& reason, const std::string& tensor,
                           const std::string& said) {
    cases->push_back(
        {what, make, [more](Matrix& m) { m.tensors.push_back(more); }, reason, tensor, said});
  };
  add(gptq, "dense and GPTQ", {"p.weight", "BF16", {8, 24}}, "CHECKPOINT_QUANT_LAYOUT", "p.weight",
      "expected dense or quantised, got both: p.qweight is there too");
  add(nf4, "bitsandbytes and native", {"p.weight_scale", "F16", {8, 1}}, "CHECKPOINT_QUANT_LAYOUT",
      "p.weight.absmax",
      "expected one layout, got those of cogserve (p.weight_scale) and bitsandbytes");
  add(nf4, "bitsandbytes and GPTQ", {"p.scales", "F16", {8, 1}}, "CHECKPOINT_QUANT_LAYOUT",
      "p.scales", "and gptq");
  add(int8, "LLM.int8", {"p.SCB", "F32", {8}}, "CHECKPOINT_QUANT_UNSUPPORTED", "p.SCB",
      "got LLM.int8 of bitsandbytes: take the 16-bit checkpoint");
  add(nf4, "nested tensors without a nested description", {"p.weight.nested_absmax", "F32", {1}},
      "CHECKPOINT_EXTRA_TENSOR", "p.weight.nested_absmax", "expected no such tensor, got [1]");
  add(nf4, "described twice", {"p.weight.quant_state.bitsandbytes__fp4", "U8", {2}},
      "CHECKPOINT_EXTRA_TENSOR", "p.weight.quant_state.bitsandbytes__fp4", "got [2]");
  add(gptq, "a bias that is not zero", {"p.bias", "F16", {8}, std::string(16, '\1')},
      "CHECKPOINT_EXTRA_TENSOR", "p.bias", "expected no such tensor, got [8]");
  add(gptq, "a bias of another length", {"p.bias", "F16", {16}}, "CHECKPOINT_EXTRA_TENSOR",
      "p.bias", "expected no such tensor, got [16]");
  add(gptq, "a bias of integers", {"p.bias", "I32", {8}}, "CHECKPOINT_EXTRA_TENSOR", "p.bias",
      "expected no such tensor, got [8]");
}

// What contradicts config.json.
void add_wrong_labels(Cases* cases) {
  const auto add = [cases](auto make, const std::string& what, std::function<void(Matrix&)> damage,
                           const std::string& reason, const std::string& tensor,
                           const std::string& said) {
    cases->push_back({what, make, std::move(damage), reason, tensor, said});
  };
  add(
      nf4, "config.json says fp4", [](Matrix& m) { m.label.codebook = "fp4"; },
      "CHECKPOINT_QUANT_LABEL", kNf4State,
      "expected bnb_4bit_quant_type 'fp4' as in config.json, got 'nf4'");
  add(
      nf4, "config.json says nested", [](Matrix& m) { m.label.nested = true; },
      "CHECKPOINT_QUANT_LABEL", kNf4State,
      "double_quant true as in config.json, got scales that "
      "are not nested");
  add(
      nested, "config.json says not nested", [](Matrix& m) { m.label.nested = false; },
      "CHECKPOINT_QUANT_LABEL", kNf4State,
      "double_quant false as in config.json, got scales that "
      "are nested");
  add(
      nf4, "config.json says cogserve", [](Matrix& m) { m.label = int4().label; },
      "CHECKPOINT_QUANT_LABEL", "p.weight.absmax",
      "expected quant_method 'cogserve' as in config.json, got the layout of bitsandbytes");
  add(
      int4, "config.json says nothing", [](Matrix& m) { m.label = {}; }, "CHECKPOINT_QUANT_LABEL",
      "p.weight_scale", "expected quant_method none as in config.json, got the layout of cogserve");
  add(
      gptq, "desc_act without an order",
      [](Matrix& m) {
        m.label.reordered = true;
        m.erase("p.g_idx");
      },
      "CHECKPOINT_QUANT_LABEL", "p.qweight",
      "expected a tensor 'p.g_idx' as config.json says desc_act, got none");
  add(
      gptq, "groups of another size than config.json's", [](Matrix& m) { m.label.group_size = 8; },
      "CHECKPOINT_SHAPE", "p.scales", "[3, 8], got F16 [2, 8]");
  add(
      gptq, "bytes without a label",
      [](Matrix& m) {
        m.tensors = {{"p.weight", "U8", {8, 24}}};
        m.label = {};
      },
      "CHECKPOINT_DTYPE", "p.weight", "expected BF16, F16 or F32, got U8");
}

TEST(PackedMatrix, every_hostile_one_is_refused_with_its_reason) {
  Cases cases;
  for (auto* more : {add_missing_tensors, add_wrong_tensors, add_wrong_states, add_wrong_shapes,
                     add_wrong_values, add_wrong_company, add_wrong_labels}) {
    more(&cases);
  }
  EXPECT_GE(cases.size(), 100u);
  for (const Hostile& hostile : cases) {
    SCOPED_TRACE(hostile.what);
    Matrix matrix = hostile.make();
    hostile.damage(matrix);
    const absl::Status status = load(matrix);
    EXPECT_EQ(error_reason(status), hostile.reason) << status;
    EXPECT_EQ(error_field(status), hostile.tensor) << status;
    EXPECT_THAT(status.message(), HasSubstr("model.safetensors: tensor '" + hostile.tensor + "'"));
    EXPECT_THAT(status.message(), HasSubstr("expected "));
    EXPECT_THAT(status.message(), HasSubstr("got "));
    EXPECT_THAT(status.message(), HasSubstr(hostile.said));
  }
}

TEST(PackedMatrix, a_bias_of_zeros_that_the_model_lacks_is_left_out) {
  Matrix matrix = gptq();
  matrix.tensors.push_back({"p.bias", "F16", {8}});
  EXPECT_TRUE(load(matrix).ok()) << load(matrix);
  // Without the quantised matrix it is an extra tensor, zeros or not.
  matrix.tensors = {{"p.weight", "BF16", {8, 24}}, {"p.bias", "F16", {8}}};
  matrix.label = {};
  EXPECT_EQ(error_reason(load(matrix)), "CHECKPOINT_EXTRA_TENSOR");
}

TEST(PackedMatrix, a_group_index_in_place_is_taken_with_desc_act) {
  Matrix matrix = gptq();
  matrix.label.reordered = true;  // with static groups the order may still be the plain one
  EXPECT_TRUE(load(matrix).ok()) << load(matrix);
}

TEST(PackedMatrix, only_matrices_are_looked_for_in_other_layouts) {
  Matrix matrix = gptq();
  matrix.shape = {8, 6, 2, 2};  // a convolution
  EXPECT_EQ(error_reason(load(matrix)), "CHECKPOINT_MISSING_TENSOR");
}

}  // namespace
}  // namespace cogserve
