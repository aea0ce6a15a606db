#include "server/text/tokenizer.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <thread>

#include "engine/base/error.hpp"
#include "engine/base/json.hpp"
#include "tests/server/tokenizer_files.hpp"

namespace cogserve::text {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<int32_t> encode(const Tokenizer& tokenizer, std::string_view text) {
  absl::StatusOr<std::vector<int32_t>> ids = tokenizer.encode(text);
  EXPECT_TRUE(ids.ok()) << ids.status();
  return ids.ok() ? *std::move(ids) : std::vector<int32_t>{};
}

TEST(Tokenizer, gives_the_ids_of_the_hugging_face_library_in_every_variant) {
  const json cases = json::parse(read_tokenizer_data("cases.json"));
  const json& texts = cases["texts"];
  ASSERT_GT(texts.size(), 400u);
  for (const json& variant : cases["variants"]) {
    json file = tokenizer_json();
    file.merge_patch(variant["patch"]);
    const Tokenizer tokenizer = parse_or_die(file);
    for (size_t i = 0; i < texts.size(); ++i) {
      const auto& text = texts[i].get_ref<const std::string&>();
      const std::vector<int32_t> ids = encode(tokenizer, text);
      EXPECT_EQ(ids, variant["ids"][i].get<std::vector<int32_t>>())
          << variant["name"] << ", text " << texts[i].dump(-1, ' ', true);
      EXPECT_EQ(tokenizer.decode(ids), text);
    }
  }
}

TEST(Tokenizer, reads_its_files_from_disk_and_names_the_one_it_cannot_read) {
  const std::string folder = std::string(COGSERVE_SOURCE_DIR) + "/tests/data/tokenizer/";
  EXPECT_TRUE(Tokenizer::load(folder + "tokenizer.json").ok());
  const absl::Status missing = Tokenizer::load(folder + "absent.json").status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.message()), HasSubstr("absent.json"));
  const absl::Status wrong = Tokenizer::load(folder + "cases.json").status();
  EXPECT_THAT(std::string(wrong.message()), HasSubstr("cases.json: decoder.type: expected"));
}

TEST(Tokenizer, leaves_the_spelling_of_every_special_token_text) {
  const Tokenizer& tokenizer = small_tokenizer();
  int specials = 0;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    if (!tokenizer.is_special(id)) continue;
    ++specials;
    const std::string spelling(tokenizer.token_bytes(id));
    EXPECT_EQ(tokenizer.token_to_id(spelling), id);
    for (const std::string& text : {spelling, "a" + spelling + "b", spelling + spelling}) {
      const std::vector<int32_t> ids = encode(tokenizer, text);
      EXPECT_GT(ids.size(), 1u);
      for (const int32_t got : ids) EXPECT_FALSE(tokenizer.is_special(got)) << text;
      EXPECT_EQ(tokenizer.decode(ids), text);
    }
  }
  EXPECT_EQ(specials, 4);
}

TEST(Tokenizer, never_takes_a_special_token_of_the_vocabulary_for_a_whole_piece) {
  json file = tokenizer_json();
  const int id = static_cast<int>(file["model"]["vocab"].size());
  file["model"]["vocab"]["zqx"] = id;
  for (json& token : file["added_tokens"]) token["id"] = token["id"].get<int>() + 1;
  file["added_tokens"].push_back({{"id", id}, {"content", "zqx"}, {"special", true}});
  const Tokenizer tokenizer = parse_or_die(file);
  EXPECT_TRUE(tokenizer.is_special(id));
  EXPECT_EQ(tokenizer.token_to_id("zqx"), id);
  EXPECT_GT(encode(tokenizer, "zqx").size(), 1u);
}

TEST(Tokenizer, refuses_text_that_is_not_utf8_and_says_where) {
  for (const std::string bad :
       {"\x80", "\xC0\x80", "\xE4\xB8", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xFF"}) {
    const absl::Status status = small_tokenizer().encode("0123456789" + bad + "x").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(error_reason(status), "TEXT_UTF8");
    EXPECT_THAT(std::string(status.message()), HasSubstr("byte 10"));
  }
}

TEST(Tokenizer, decodes_without_special_and_unknown_ids_and_repairs_broken_characters) {
  const Tokenizer& tokenizer = small_tokenizer();
  std::vector<int32_t> ids{tokenizer.token_to_id("<|begin_of_text|>").value(), -1};
  for (const int32_t id : encode(tokenizer, "ok ")) ids.push_back(id);
  ids.push_back(tokenizer.vocab_size());
  ids.push_back(tokenizer.token_to_id("\xF0").value());
  ids.push_back(tokenizer.token_to_id("\x9F").value());
  ids.push_back(tokenizer.token_to_id("<|eot_id|>").value());
  ids.push_back(tokenizer.token_to_id("a").value());
  EXPECT_EQ(tokenizer.decode(ids), "ok \uFFFDa");
  EXPECT_EQ(tokenizer.token_bytes(-1), "");
  EXPECT_EQ(tokenizer.token_bytes(tokenizer.vocab_size()), "");
  EXPECT_FALSE(tokenizer.is_special(-1));
  EXPECT_FALSE(tokenizer.token_to_id("no such token").has_value());
}

TEST(Tokenizer, encodes_256_kib_of_one_character_and_back) {
  for (const std::string unit : {"a", " ", "\n", "中", "😀", "a ", "\n ", "'s", "<|eot_id|>"}) {
    std::string text;
    while (text.size() < 256 * 1024) text += unit;
    EXPECT_EQ(small_tokenizer().decode(encode(small_tokenizer(), text)), text);
  }
}

TEST(Tokenizer, encodes_the_same_in_many_threads_at_once) {
  const std::string text = "Question: How many triangles are there? 图中有三个绿色的三角形。😀\n";
  const std::vector<int32_t> expected = encode(small_tokenizer(), text);
  std::vector<int> equal(4, 0);
  std::vector<std::thread> threads;
  for (int& count : equal) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) count += small_tokenizer().encode(text).value() == expected;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(equal, ElementsAre(200, 200, 200, 200));
}

// One wrong thing in a good file, and what the message must name.
struct Fault {
  const char* named;
  std::function<void(json&)> make;
};

TEST(Tokenizer, refuses_a_malformed_file_naming_the_field_and_what_was_got) {
  const std::vector<Fault> faults{
      {"tokenizer: expected an object, got an array of 0", [](json& f) { f = json::array(); }},
      {"normalizer: expected null, got an object",
       [](json& f) {
         f["normalizer"] = {{"type", "NFC"}};
       }},
      {"truncation: expected null",
       [](json& f) {
         f["truncation"] = {{"max_length", 8}};
       }},
      {"decoder.type: expected \"ByteLevel\", got \"WordPiece\"",
       [](json& f) { f["decoder"]["type"] = "WordPiece"; }},
      {"model.type: expected \"BPE\", got \"Unigram\"",
       [](json& f) { f["model"]["type"] = "Unigram"; }},
      {"model.type: expected \"BPE\", got null", [](json& f) { f.erase("model"); }},
      {"model.dropout: expected null, got 0.1", [](json& f) { f["model"]["dropout"] = 0.1; }},
      {"model.end_of_word_suffix", [](json& f) { f["model"]["end_of_word_suffix"] = "</w>"; }},
      {"model.byte_fallback: expected false, got true",
       [](json& f) { f["model"]["byte_fallback"] = true; }},
      {"model.ignore_merges", [](json& f) { f["model"]["ignore_merges"] = "yes"; }},
      {"pre_tokenizer.type: expected",
       [](json& f) {
         f["pre_tokenizer"] = {{"type", "Whitespace"}};
       }},
      {"pre_tokenizer.pretokenizers: expected a Split and a ByteLevel, got an array of 1",
       [](json& f) { f["pre_tokenizer"]["pretokenizers"].erase(0); }},
      {"pretokenizers[0].type: expected \"Split\", got \"Digits\"",
       [](json& f) { f["pre_tokenizer"]["pretokenizers"][0]["type"] = "Digits"; }},
      {"pretokenizers[0].behavior",
       [](json& f) { f["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Removed"; }},
      {"pretokenizers[0].invert",
       [](json& f) { f["pre_tokenizer"]["pretokenizers"][0]["invert"] = true; }},
      {"pretokenizers[0].pattern.Regex",
       [](json& f) {
         f["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {{"String", " "}};
       }},
      {"pattern: \\d at byte 0",
       [](json& f) { f["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "\\d+"; }},
      {"pretokenizers[1].add_prefix_space",
       [](json& f) { f["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = true; }},
      {"pretokenizers[1].use_regex",
       [](json& f) { f["pre_tokenizer"]["pretokenizers"][1]["use_regex"] = true; }},
      {"model.vocab: expected an object",
       [](json& f) { f["model"]["vocab"] = json::array({"a"}); }},
      {"model.vocab[\"a\"]: expected an id below 804, got -1",
       [](json& f) { f["model"]["vocab"]["a"] = -1; }},
      {"model.vocab[\"a\"]: expected an id below 804, got 804",
       [](json& f) { f["model"]["vocab"]["a"] = 804; }},
      {"model.vocab[\"a\"]: expected an id below 804, got 1.5",
       [](json& f) { f["model"]["vocab"]["a"] = 1.5; }},
      {"model.vocab[\"a\"]: expected an id below 804, got 18446744073709551615",
       [](json& f) { f["model"]["vocab"]["a"] = 18446744073709551615u; }},
      {"expected an id of its own",
       [](json& f) { f["model"]["vocab"]["a"] = f["model"]["vocab"]["b"]; }},
      {"not spelled in byte-level symbols", [](json& f) { f["model"]["vocab"]["a b"] = 800; }},
      {"not spelled in byte-level symbols", [](json& f) { f["model"]["vocab"][""] = 800; }},
      {"model.vocab: no token for the single byte 97",
       [](json& f) {
         f["model"]["vocab"]["zqx"] = f["model"]["vocab"]["a"];
         f["model"]["vocab"].erase("a");
       }},
      {"model.merges: expected an array, got null", [](json& f) { f["model"].erase("merges"); }},
      {"model.merges[0]: expected \"left right\"", [](json& f) { f["model"]["merges"][0] = "ab"; }},
      {"model.merges[1]: expected \"left right\" or",
       [](json& f) { f["model"]["merges"][1] = json::array({"a"}); }},
      {"model.merges[2]: expected tokens of the vocabulary, got \"z q\"",
       [](json& f) { f["model"]["merges"][2] = "z q"; }},
      {"expected a pair not merged before",
       [](json& f) { f["model"]["merges"][3] = f["model"]["merges"][2]; }},
      {"added_tokens: expected an array", [](json& f) { f["added_tokens"] = "none"; }},
      {"added_tokens[0].content: expected a string, got 7",
       [](json& f) { f["added_tokens"][0]["content"] = 7; }},
      {"added_tokens[0].content", [](json& f) { f["added_tokens"][0]["content"] = ""; }},
      {"added_tokens[1].content: expected a token not added before",
       [](json& f) { f["added_tokens"][1]["content"] = f["added_tokens"][0]["content"]; }},
      {"added_tokens[0].id: expected below 804, got 9999",
       [](json& f) { f["added_tokens"][0]["id"] = 9999; }},
      {"added_tokens[\"<|begin_of_text|>\"].id: expected an id of its own, got 3",
       [](json& f) { f["added_tokens"][0]["id"] = 3; }},
      {"as in model.vocab", [](json& f) { f["added_tokens"][0]["content"] = "a"; }},
      {"added_tokens[2].lstrip: expected false, got true",
       [](json& f) { f["added_tokens"][2]["lstrip"] = true; }},
  };
  for (const Fault& fault : faults) {
    json file = tokenizer_json();
    fault.make(file);
    const absl::Status status = Tokenizer::parse(file.dump()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << fault.named;
    EXPECT_THAT(std::string(status.message()), HasSubstr(fault.named));
  }
}

TEST(Tokenizer, refuses_a_merge_that_makes_a_special_token) {
  json file = tokenizer_json();
  const auto& merge = file["model"]["merges"][400];
  const std::string product = merge[0].get<std::string>() + merge[1].get<std::string>();
  file["added_tokens"].push_back(
      {{"content", product}, {"id", file["model"]["vocab"][product]}, {"special", true}});
  EXPECT_THAT(Tokenizer::parse(file.dump()).status().ToString(), HasSubstr("model.merges[400]"));
}

TEST(Json, refuses_what_is_cut_doubled_or_deep_and_names_the_byte) {
  const std::vector<std::pair<std::string, std::string>> bad{
      {"", "byte 1"},
      {"[1,2", "byte 5"},
      {"[1] x", "byte 5"},
      {"1e999", "number overflow"},
      {"\"\xFF\"", "ill-formed UTF-8"},
      {R"({"a":1,"a":2})", "key \"a\" occurs twice in one object"},
      {R"({"a":{"b":[]},"a":{}})", "key \"a\" occurs twice in one object"},
      {std::string(33, '['), "at byte 33: nested deeper than 32 levels"},
      {std::string(1'000'000, '['), "at byte 33: nested deeper than 32 levels"},
  };
  for (const auto& [text, named] : bad) {
    const absl::Status status = parse_json(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(named));
  }
  std::string mixed;
  for (int i = 0; i < 100'000; ++i) mixed += "{\"a\":[";
  EXPECT_THAT(std::string(parse_json(mixed).status().message()), HasSubstr("at byte 97"));
}

TEST(Json, reads_documents_as_deep_as_the_limit_and_keys_repeated_in_other_objects) {
  EXPECT_TRUE(parse_json(std::string(32, '[') + std::string(32, ']')).ok());
  EXPECT_FALSE(parse_json("[[1]]", 1).ok());
  const std::string text = R"({"a":[1,-2,1.5,true,null,"é"],"b":{"a":{}},"c":[{"a":0},{"a":1}]})";
  EXPECT_EQ(parse_json(text).value(), json::parse(text));
}

}  // namespace
}  // namespace cogserve::text
