#include "engine/config.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>

#include "engine/base/error.hpp"
#include "tests/engine/tiny_checkpoint.hpp"
#include "tests/temporary_directory.hpp"

namespace cogserve {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

absl::StatusOr<ModelConfig> read(const std::string& config, const std::string& generation = "") {
  const TemporaryDirectory directory;
  directory.write("config.json", config);
  if (!generation.empty()) directory.write("generation_config.json", generation);
  return read_model_config(directory.path());
}

absl::StatusOr<GenerationConfig> read_generation(const std::string& text) {
  const TemporaryDirectory directory;
  directory.write("generation_config.json", text);
  return read_generation_config(directory.path());
}

TEST(Config, reads_the_published_values) {
  const auto config = read(R"({
    "architectures": ["CogVLMForCausalLM"],
    "auto_map": {"AutoConfig": "configuration_cogvlm.CogVLMConfig"},
    "vision_config": {"dropout_prob": 0.0, "hidden_act": "gelu", "in_channels": 3,
      "num_hidden_layers": 63, "hidden_size": 1792, "patch_size": 14, "num_heads": 16,
      "intermediate_size": 15360, "layer_norm_eps": 1e-06, "num_positions": 9217,
      "image_size": 1344},
    "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
    "max_position_embeddings": 8192, "rms_norm_eps": 1e-05, "template_version": "chat",
    "bos_token_id": 128000, "eos_token_id": [128001, 128009], "pad_token_id": 128002,
    "vocab_size": 128256, "num_hidden_layers": 32, "hidden_act": "silu", "use_cache": true
  })");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->head_dim(), 128);
  EXPECT_EQ(config->kv_heads, 8);
  EXPECT_EQ(config->qkv_width(), 6144);
  EXPECT_EQ(config->max_positions, 8192);
  EXPECT_FLOAT_EQ(config->rope_theta, 500000.0f);
  EXPECT_FLOAT_EQ(config->rms_norm_eps, 1e-5f);
  EXPECT_EQ(config->bos_id, 128000);
  EXPECT_EQ(config->image_id, 128002);
  EXPECT_THAT(config->eos_ids, ElementsAre(128001, 128009));
  EXPECT_EQ(config->template_name, "chat");
  EXPECT_EQ(config->dtype, "");
  EXPECT_EQ(config->vision.rows(), 9217);
  EXPECT_EQ(config->vision.image_tokens(), 2306);
  EXPECT_EQ(config->vision.head_dim(), 112);
  EXPECT_FLOAT_EQ(config->vision.layer_norm_eps, 1e-6f);
}

TEST(Config, absent_kv_heads_are_eight) {
  json config = json::parse(tiny_config_json());
  config.erase("num_multi_query_heads");
  config["num_attention_heads"] = 8;
  const auto read_back = read(config.dump());
  ASSERT_TRUE(read_back.ok()) << read_back.status();
  EXPECT_EQ(read_back->kv_heads, 8);
}

TEST(Config, takes_one_kv_head_and_as_many_as_query_heads) {
  json config = json::parse(tiny_config_json());
  for (const int kv_heads : {1, 2, 4}) {
    config["num_multi_query_heads"] = kv_heads;
    const auto read_back = read(config.dump());
    ASSERT_TRUE(read_back.ok()) << read_back.status();
    EXPECT_EQ(read_back->kv_heads, kv_heads);
  }
}

TEST(Config, one_end_token_may_stand_without_a_list) {
  json config = json::parse(tiny_config_json());
  config["eos_token_id"] = 7;
  EXPECT_THAT(read(config.dump())->eos_ids, ElementsAre(7));
}

TEST(Config, end_tokens_of_the_generation_config_win) {
  EXPECT_THAT(read(tiny_config_json(), R"({"eos_token_id": [5, 6]})")->eos_ids, ElementsAre(5, 6));
  EXPECT_THAT(read(tiny_config_json(), R"({"temperature": 0.5})")->eos_ids, ElementsAre(1, 2));
  const auto outside = read(tiny_config_json(), R"({"eos_token_id": 32})");
  EXPECT_EQ(error_reason(outside.status()), "CONFIG_KEY");
  EXPECT_THAT(outside.status().message(), HasSubstr("generation_config.json: eos_token_id"));
}

TEST(Config, missing_file_is_not_found) {
  const TemporaryDirectory directory;
  const auto config = read_model_config(directory.path());
  EXPECT_TRUE(absl::IsNotFound(config.status()));
  EXPECT_EQ(error_reason(config.status()), "FILE_NOT_FOUND");
  EXPECT_THAT(config.status().message(), HasSubstr("config.json"));
}

TEST(Config, a_link_out_of_the_directory_is_not_followed) {
  const TemporaryDirectory outside;
  const TemporaryDirectory directory;
  outside.write("config.json", tiny_config_json());
  std::filesystem::create_symlink(outside.path() + "/config.json",
                                  directory.path() + "/config.json");
  const auto config = read_model_config(directory.path());
  EXPECT_EQ(error_reason(config.status()), "FILE_OUTSIDE");
}

// A change to the valid configuration, the key that must be named, and what must be said.
struct BadConfig {
  std::string key;
  json value;  // null = erased
  std::string named;
  std::string said;
};

json::json_pointer pointer(const std::string& key) {
  std::string path = "/" + key;
  for (char& c : path) c = c == '.' ? '/' : c;
  return json::json_pointer(path);
}

// Numbers that are absent, of another type or out of range.
std::vector<BadConfig> bad_numbers() {
  std::vector<BadConfig> bad;
  const std::vector<std::string> sizes = {"hidden_size",
                                          "intermediate_size",
                                          "num_attention_heads",
                                          "vocab_size",
                                          "num_hidden_layers",
                                          "max_position_embeddings",
                                          "vision_config.hidden_size",
                                          "vision_config.intermediate_size",
                                          "vision_config.num_heads",
                                          "vision_config.num_hidden_layers",
                                          "vision_config.patch_size",
                                          "vision_config.image_size",
                                          "vision_config.num_positions"};
  for (const std::string& key : sizes) {
    bad.push_back({key, nullptr, key, "expected a value, got none"});
    for (const json& value : {json(0), json(-1), json(1.5), json("8"), json(1ull << 40),
                              json(18446744073709551615ull), json::array({8}), json(true)}) {
      bad.push_back({key, value, key, "got " + value.dump()});
    }
  }
  for (const std::string key : {"bos_token_id", "pad_token_id", "eos_token_id"}) {
    bad.push_back({key, nullptr, key, "got none"});
    bad.push_back({key, -1, key, "expected an integer in [0, 31], got -1"});
    bad.push_back({key, 32, key, "expected an integer in [0, 31], got 32"});
  }
  for (const std::string key : {"rms_norm_eps", "vision_config.layer_norm_eps"}) {
    bad.push_back({key, nullptr, key, "got none"});
    bad.push_back({key, 0.0, key, "expected a number in (0.0, 1.0], got 0.0"});
    bad.push_back({key, 2, key, "got 2"});
    bad.push_back({key, "small", key, "got \"small\""});
  }
  return bad;
}

// Values that do not fit each other or this program.
std::vector<BadConfig> bad_choices() {
  return {
      {"architectures", json::array({"LlamaForCausalLM"}), "architectures", "LlamaForCausalLM"},
      {"architectures", nullptr, "architectures", "expected [\"CogVLMForCausalLM\"], got null"},
      {"architectures", "CogVLMForCausalLM", "architectures", "got \"CogVLMForCausalLM\""},
      {"hidden_act", "gelu", "hidden_act", "expected 'silu', got \"gelu\""},
      {"vision_config.hidden_act", "relu", "vision_config.hidden_act", "expected 'gelu'"},
      {"vision_config.in_channels", 4, "vision_config.in_channels", "got 4"},
      {"template_version", "llama", "template_version", "'chat' or 'vqa' or 'base'"},
      {"torch_dtype", "int8", "torch_dtype", "got \"int8\""},
      {"rope_theta", 0.5, "rope_theta", "got 0.5"},
      {"rope_theta", "big", "rope_theta", "got \"big\""},
      {"num_multi_query_heads", 3, "num_multi_query_heads", "a divisor of"},
      {"num_multi_query_heads", 8, "num_multi_query_heads", "got 8"},
      {"num_multi_query_heads", 0, "num_multi_query_heads", "got 0"},
      {"num_multi_query_heads", nullptr, "num_multi_query_heads", "8 where the key is absent"},
      {"hidden_size", 18, "hidden_size", "a multiple of num_attention_heads = 4, got 18"},
      {"hidden_size", 20, "hidden_size", "even number of values per head"},
      {"eos_token_id", json::array(), "eos_token_id", "1 to 16 ids"},
      {"eos_token_id", json::array({1, "2"}), "eos_token_id", "got \"2\""},
      {"vision_config", nullptr, "vision_config", "got none"},
      {"vision_config", 3, "vision_config", "expected an object, got 3"},
      {"vision_config.hidden_size", 13, "vision_config.hidden_size", "multiple of num_heads = 3"},
      {"vision_config.image_size", 9, "vision_config.image_size", "a multiple of patch_size = 2"},
      {"vision_config.image_size", 6, "vision_config.image_size", "an even number of patches"},
      {"vision_config.num_positions", 16, "vision_config.num_positions", "expected 17"},
  };
}

TEST(Config, every_bad_value_is_refused_by_name) {
  std::vector<BadConfig> cases = bad_numbers();
  for (BadConfig& bad : bad_choices()) cases.push_back(std::move(bad));
  EXPECT_GE(cases.size(), 150u);
  for (const BadConfig& bad : cases) {
    json config = json::parse(tiny_config_json());
    if (bad.value.is_null()) {
      json& parent = config[pointer(bad.key).parent_pointer()];
      parent.erase(pointer(bad.key).back());
    } else {
      config[pointer(bad.key)] = bad.value;
    }
    SCOPED_TRACE(bad.key + " = " + bad.value.dump());
    const auto read_back = read(config.dump());
    ASSERT_FALSE(read_back.ok());
    EXPECT_TRUE(absl::IsInvalidArgument(read_back.status()));
    EXPECT_EQ(error_reason(read_back.status()), "CONFIG_KEY");
    EXPECT_EQ(error_field(read_back.status()), bad.named);
    const std::string message(read_back.status().message());
    EXPECT_THAT(message, HasSubstr("config.json: " + bad.named + ": "));
    EXPECT_THAT(message, HasSubstr(bad.said));
  }
}

// The tiny model's configuration with this quantization_config.
absl::StatusOr<ModelConfig> read_quantised(const json& quantization) {
  json config = json::parse(tiny_config_json());
  config["quantization_config"] = quantization;
  return read(config.dump());
}

json gptq_label(const json& changes = json::object()) {
  json label = {{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 128}};
  label.update(changes);
  return label;
}

json auto_round_label(const json& changes = json::object()) {
  json label = gptq_label({{"quant_method", "intel/auto-round"}, {"data_type", "int"}});
  label.update(changes);
  return label;
}

TEST(QuantizationConfig, is_none_where_it_is_absent) {
  EXPECT_EQ(read(tiny_config_json())->quantization.method, QuantMethod::kNone);
  EXPECT_EQ(read_quantised(nullptr)->quantization.method, QuantMethod::kNone);
}

TEST(QuantizationConfig, reads_what_writers_write) {
  const auto own = read_quantised({{"quant_method", "cogserve"},
                                   {"version", 1},
                                   {"bits", 4},
                                   {"group_size", 128},
                                   {"vision", "int8"}})
                       ->quantization;
  EXPECT_EQ(own.method, QuantMethod::kCogserve);
  EXPECT_EQ(own.group_size, 128);

  json label = {{"quant_method", "bitsandbytes"},
                {"_load_in_4bit", true},
                {"load_in_4bit", true},
                {"load_in_8bit", false},
                {"bnb_4bit_compute_dtype", "bfloat16"},
                {"bnb_4bit_quant_storage", "uint8"},
                {"llm_int8_skip_modules", nullptr},
                {"llm_int8_threshold", 6.0}};
  const auto plain = read_quantised(label)->quantization;
  EXPECT_EQ(plain.method, QuantMethod::kBitsandbytes);
  EXPECT_EQ(plain.codebook, "");
  EXPECT_FALSE(plain.nested.has_value());
  label.update({{"bnb_4bit_quant_type", "nf4"}, {"bnb_4bit_use_double_quant", false}});
  const auto said = read_quantised(label)->quantization;
  EXPECT_EQ(said.codebook, "nf4");
  EXPECT_EQ(said.nested, false);

  const auto gptq = read_quantised(gptq_label({{"desc_act", true}, {"group_size", -1}}));
  EXPECT_EQ(gptq->quantization.method, QuantMethod::kGptq);
  EXPECT_EQ(gptq->quantization.name, "gptq");
  EXPECT_EQ(gptq->quantization.group_size, 0) << "all inputs of a row";
  EXPECT_TRUE(gptq->quantization.symmetric);
  EXPECT_TRUE(gptq->quantization.reordered);
}

TEST(QuantizationConfig, knows_the_convention_of_zeros_from_each_writers_words) {
  const std::vector<std::pair<json, int>> cases = {
      {gptq_label(), 1},
      {gptq_label({{"checkpoint_format", "gptq"}}), 1},
      {gptq_label({{"checkpoint_format", "gptq_v2"}}), 0},
      {gptq_label({{"format", "gptq_v2"}}), 0},
      {auto_round_label({{"packing_format", "auto_round:auto_gptq"}}), 1},
      {auto_round_label({{"packing_format", "auto_round:exllamav2"}}), 0},
      {auto_round_label({{"backend", "auto_round:gptq:exllamav2"}}), 1},
      {auto_round_label({{"backend", "auto_round:exllamav2"}, {"quant_method", "auto-round"}}), 0},
      {auto_round_label(
           {{"backend", "auto_round:exllamav2"}, {"packing_format", "auto_round:auto_gptq"}}),
       1},
  };
  for (auto [label, offset] : cases) {
    label["sym"] = false;
    const auto config = read_quantised(label);
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_FALSE(config->quantization.symmetric);
    EXPECT_EQ(config->quantization.zero_offset, offset) << label;
  }
  EXPECT_TRUE(read_quantised(auto_round_label()).ok()) << "of no consequence where symmetric";
}

TEST(QuantizationConfig, what_is_not_read_is_refused_by_name) {
  struct Refused {
    json label;
    std::string key;
    std::string said;
  };
  const json own = {{"quant_method", "cogserve"}, {"version", 1}, {"group_size", 128}};
  const auto own_with = [&own](const json& changes) {
    json label = own;
    label.update(changes);
    return label;
  };
  const std::vector<Refused> cases = {
      {json::object(), "quant_method", "expected a value, got none"},
      {{{"quant_method", "awq"}}, "quant_method", "or 'gptq' or 'auto-round'"},
      {{{"quant_method", "awq"}}, "quant_method", "got \"awq\""},
      {{{"quant_method", 4}}, "quant_method", "got 4"},
      {own_with({{"version", 2}}), "version", "expected an integer in [1, 1], got 2"},
      {own_with({{"version", nullptr}}), "version", "expected a value, got none"},
      {own_with({{"group_size", 64}}), "group_size", "expected an integer in [128, 128], got 64"},
      {{{"quant_method", "bitsandbytes"}, {"load_in_8bit", true}},
       "load_in_8bit",
       "expected false (LLM.int8 is not read: take the 16-bit checkpoint), got true"},
      {{{"quant_method", "bitsandbytes"}, {"bnb_4bit_quant_type", "int4"}},
       "bnb_4bit_quant_type",
       "expected 'fp4' or 'nf4', got \"int4\""},
      {gptq_label({{"bits", 8}}), "bits", "expected 4, got 8"},
      {gptq_label({{"bits", nullptr}}), "bits", "expected a value, got none"},
      {gptq_label({{"group_size", 0}}), "group_size", "got 0"},
      {gptq_label({{"group_size", -2}}), "group_size", "got -2"},
      {gptq_label({{"group_size", 1 << 20}}), "group_size", "got 1048576"},
      {gptq_label({{"sym", "yes"}}), "sym", "expected true or false, got \"yes\""},
      {gptq_label({{"checkpoint_format", "marlin"}}), "checkpoint_format",
       "expected 'gptq' or 'gptq_v2', got \"marlin\""},
      {auto_round_label({{"packing_format", "auto_round:auto_awq"}}), "packing_format",
       "expected the packing of GPTQ (export as auto_round:auto_gptq), got 'auto_round:auto_awq'"},
      {auto_round_label({{"backend", "auto_round:awq:gemm"}}), "backend", "got 'auto_round:awq"},
      {auto_round_label({{"backend", 3}}), "backend", "expected a string, got 3"},
      {auto_round_label({{"sym", false}}), "backend", "to know how zeros are stored, got none"},
      {auto_round_label({{"data_type", "mx_fp"}}), "data_type", "expected 'int'"},
  };
  for (const Refused& refused : cases) {
    SCOPED_TRACE(refused.label.dump());
    const auto config = read_quantised(refused.label);
    EXPECT_EQ(error_reason(config.status()), "CONFIG_KEY");
    EXPECT_EQ(error_field(config.status()), "quantization_config." + refused.key);
    EXPECT_THAT(config.status().message(), HasSubstr(refused.said));
  }
}

TEST(Config, text_that_is_no_json_object_is_refused) {
  const std::string deep = std::string(100, '[') + std::string(100, ']');
  for (const std::string& text :
       {std::string(), std::string("{"), std::string("[]"), std::string("\"x\""),
        std::string("{\"a\": 1, \"a\": 2}"), std::string("{} {}"), std::string("{\"a\": NaN}"),
        std::string("\xff\xfe{}"), "{\"a\": " + deep + "}"}) {
    const auto config = read(text);
    ASSERT_FALSE(config.ok()) << text;
    EXPECT_EQ(error_reason(config.status()), "CONFIG_JSON") << text;
    EXPECT_THAT(config.status().message(), HasSubstr("config.json: ")) << text;
  }
}

TEST(Config, a_huge_file_is_refused_unread) {
  const auto config = read(std::string((1 << 20) + 1, ' '));
  EXPECT_EQ(error_reason(config.status()), "FILE_SIZE");
}

TEST(GenerationConfig, reads_the_published_values) {
  const auto config = read_generation(R"({"_from_model_config": true, "bos_token_id": 128000,
    "eos_token_id": [128001, 128009], "pad_token_id": 128002, "do_sample": true,
    "temperature": 0.6, "max_length": 4096, "top_p": 0.9, "transformers_version": "4.40.2"})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_FLOAT_EQ(config->temperature, 0.6f);
  EXPECT_FLOAT_EQ(config->top_p, 0.9f);
  EXPECT_EQ(config->top_k, 0);
  EXPECT_FLOAT_EQ(config->repetition_penalty, 1.0f);
}

TEST(GenerationConfig, absent_file_means_the_defaults) {
  const TemporaryDirectory directory;
  const auto config = read_generation_config(directory.path());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_FLOAT_EQ(config->temperature, GenerationConfig{}.temperature);
}

TEST(GenerationConfig, no_sampling_is_temperature_zero) {
  EXPECT_EQ(read_generation(R"({"do_sample": false, "temperature": 0.6})")->temperature, 0.0f);
}

TEST(GenerationConfig, values_out_of_range_are_refused_by_name) {
  const std::pair<std::string, std::string> cases[] = {
      {R"({"temperature": -0.1})", "temperature"},
      {R"({"temperature": 2.5})", "temperature"},
      {R"({"temperature": "hot"})", "temperature"},
      {R"({"top_p": 0})", "top_p"},
      {R"({"top_p": 1.1})", "top_p"},
      {R"({"top_k": -1})", "top_k"},
      {R"({"top_k": 1.5})", "top_k"},
      {R"({"do_sample": 1})", "do_sample"},
      {R"({"repetition_penalty": 0})", "repetition_penalty"}};
  for (const auto& [text, key] : cases) {
    const auto config = read_generation(text);
    ASSERT_FALSE(config.ok()) << text;
    EXPECT_EQ(error_reason(config.status()), "CONFIG_KEY") << text;
    EXPECT_EQ(error_field(config.status()), key) << text;
    EXPECT_THAT(config.status().message(), HasSubstr("generation_config.json: " + key)) << text;
  }
}

}  // namespace
}  // namespace cogserve
