#include "server/text/tokenizer_file.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/base/json.hpp"
#include "server/text/byte_alphabet.hpp"

namespace cogserve::text {
namespace {

using nlohmann::json;

constexpr int32_t kNoId = -1;

// The rule of a ByteLevel pre-tokenizer that has no Split before it.
constexpr std::string_view kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// A short description of what stands in the file, for messages.
std::string describe(const json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return absl::StrCat("an array of ", value.size());
  std::string text = value.dump(-1, ' ', true);
  if (text.size() > 60) text = text.substr(0, 60) + "...";
  return text;
}

absl::Status wrong_value(const std::string& field, const std::string& expected, const json& got) {
  return absl::InvalidArgumentError(
      absl::StrCat(field, ": expected ", expected, ", got ", describe(got)));
}

// Absent members read as null.
const json& member(const json& object, const char* name) {
  static const json null;
  if (!object.is_object()) return null;
  const auto found = object.find(name);
  return found == object.end() ? null : *found;
}

bool is_string(const json& value, std::string_view text) {
  return value.is_string() && value.get_ref<const std::string&>() == text;
}

bool is_bool(const json& value, bool expected) {
  return value.is_boolean() && value.get<bool>() == expected;
}

// Reads one tokenizer.json into a TokenizerFile; each step returns the first thing that is wrong.
class Reader {
 public:
  explicit Reader(const json& root) : root_(root) {}

  absl::StatusOr<TokenizerFile> read() {
    if (!root_.is_object()) return wrong_value("tokenizer", "an object", root_);
    for (const auto step : {&Reader::check_pipeline, &Reader::check_model, &Reader::read_pattern,
                            &Reader::read_tokens, &Reader::read_byte_ids, &Reader::read_merges}) {
      if (absl::Status status = (this->*step)(); !status.ok()) return status;
    }
    return std::move(file_);
  }

 private:
  // Whatever would change the ids or the text and is not done here must be absent.
  absl::Status check_pipeline() {
    for (const char* const name : {"normalizer", "truncation", "padding"}) {
      if (const json& value = member(root_, name); !value.is_null()) {
        return wrong_value(name, "null", value);
      }
    }
    const json& decoder = member(member(root_, "decoder"), "type");
    if (!is_string(decoder, "ByteLevel")) {
      return wrong_value("decoder.type", "\"ByteLevel\"", decoder);
    }
    return absl::OkStatus();
  }

  absl::Status check_model() {
    const json& model = member(root_, "model");
    if (const json& type = member(model, "type"); !is_string(type, "BPE")) {
      return wrong_value("model.type", "\"BPE\"", type);
    }
    for (const char* const name : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
      const json& value = member(model, name);
      if (!value.is_null() && !is_string(value, "")) {
        return wrong_value(absl::StrCat("model.", name), "null", value);
      }
    }
    if (const json& value = member(model, "byte_fallback");
        !value.is_null() && !is_bool(value, false)) {
      return wrong_value("model.byte_fallback", "false", value);
    }
    const json& ignore_merges = member(model, "ignore_merges");
    if (!ignore_merges.is_null() && !ignore_merges.is_boolean()) {
      return wrong_value("model.ignore_merges", "true or false", ignore_merges);
    }
    file_.ignore_merges = is_bool(ignore_merges, true);
    return absl::OkStatus();
  }

  absl::Status read_pattern() {
    const json& top = member(root_, "pre_tokenizer");
    const json& kind = member(top, "type");
    if (is_string(kind, "ByteLevel")) {
      file_.pattern = kByteLevelPattern;
      return check_byte_level(top, "pre_tokenizer", true);
    }
    if (!is_string(kind, "Sequence")) {
      return wrong_value("pre_tokenizer.type", "\"Sequence\" or \"ByteLevel\"", kind);
    }
    const json& steps = member(top, "pretokenizers");
    if (!steps.is_array() || steps.size() != 2) {
      return wrong_value("pre_tokenizer.pretokenizers", "a Split and a ByteLevel", steps);
    }
    if (absl::Status status = read_split(steps[0]); !status.ok()) return status;
    return check_byte_level(steps[1], "pre_tokenizer.pretokenizers[1]", false);
  }

  absl::Status read_split(const json& split) {
    const std::string field = "pre_tokenizer.pretokenizers[0]";
    if (const json& type = member(split, "type"); !is_string(type, "Split")) {
      return wrong_value(field + ".type", "\"Split\"", type);
    }
    if (const json& behavior = member(split, "behavior"); !is_string(behavior, "Isolated")) {
      return wrong_value(field + ".behavior", "\"Isolated\"", behavior);
    }
    if (const json& invert = member(split, "invert"); !is_bool(invert, false)) {
      return wrong_value(field + ".invert", "false", invert);
    }
    const json& regex = member(member(split, "pattern"), "Regex");
    if (!regex.is_string()) return wrong_value(field + ".pattern.Regex", "a string", regex);
    file_.pattern = regex.get_ref<const std::string&>();
    return absl::OkStatus();
  }

  static absl::Status check_byte_level(const json& step, const std::string& field, bool use_regex) {
    if (const json& type = member(step, "type"); !is_string(type, "ByteLevel")) {
      return wrong_value(field + ".type", "\"ByteLevel\"", type);
    }
    if (const json& value = member(step, "add_prefix_space"); !is_bool(value, false)) {
      return wrong_value(field + ".add_prefix_space", "false", value);
    }
    // Files older than the member mean true.
    const json& value = member(step, "use_regex");
    const bool as_expected = (use_regex && value.is_null()) || is_bool(value, use_regex);
    if (!as_expected) return wrong_value(field + ".use_regex", use_regex ? "true" : "false", value);
    return absl::OkStatus();
  }

  absl::Status read_tokens() {
    const json& vocab = member(member(root_, "model"), "vocab");
    if (!vocab.is_object()) return wrong_value("model.vocab", "an object", vocab);
    const json& added = member(root_, "added_tokens");
    if (!added.is_null() && !added.is_array())
      return wrong_value("added_tokens", "an array", added);
    for (size_t i = 0; i < added.size(); ++i) {
      const std::string field = absl::StrCat("added_tokens[", i, "]");
      if (absl::Status status = read_added_token(added[i], field, vocab); !status.ok()) {
        return status;
      }
    }
    size_t count = vocab.size();
    for (const auto& token : file_.added) count += vocab.contains(token.content) ? 0 : 1;
    file_.tokens.resize(count);
    file_.in_vocabulary.resize(count);
    taken_.resize(count);
    ids_.reserve(vocab.size());
    for (const auto& [symbols, id] : vocab.get_ref<const json::object_t&>()) {
      if (absl::Status status = add_vocabulary_token(symbols, id); !status.ok()) return status;
    }
    for (const auto& token : file_.added) {
      if (absl::Status status = place_added_token(token, vocab); !status.ok()) return status;
    }
    return absl::OkStatus();
  }

  absl::Status read_added_token(const json& token, const std::string& field, const json& vocab) {
    const json& content = member(token, "content");
    const json& id = member(token, "id");
    if (!content.is_string() || content.get_ref<const std::string&>().empty()) {
      return wrong_value(field + ".content", "a string", content);
    }
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= vocab.size() + added_count()) {
      return wrong_value(field + ".id", absl::StrCat("below ", vocab.size() + added_count()), id);
    }
    for (const char* const name : {"single_word", "lstrip", "rstrip"}) {
      const json& value = member(token, name);
      if (!value.is_null() && !is_bool(value, false)) {
        return wrong_value(absl::StrCat(field, ".", name), "false", value);
      }
    }
    const bool special = is_bool(member(token, "special"), true);
    if (!added_special_.emplace(content.get<std::string>(), special).second) {
      return wrong_value(field + ".content", "a token not added before", content);
    }
    file_.added.push_back({content.get<std::string>(), id.get<int32_t>(), special,
                           is_bool(member(token, "normalized"), true)});
    return absl::OkStatus();
  }

  size_t added_count() const { return member(root_, "added_tokens").size(); }

  // Claims `id` for a token, or says what was expected. The number of tokens is known, so ids that
  // are in range and claimed once are a bijection onto 0..n-1.
  std::string claim(const json& id) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= taken_.size()) {
      return absl::StrCat("an id below ", taken_.size());
    }
    if (taken_[id.get<size_t>()]) return "an id of its own";
    taken_[id.get<size_t>()] = true;
    return {};
  }

  absl::Status add_vocabulary_token(const std::string& symbols, const json& id) {
    const auto field = [&] { return absl::StrCat("model.vocab[", describe(symbols), "]"); };
    if (const std::string expected = claim(id); !expected.empty()) {
      return wrong_value(field(), expected, id);
    }
    const auto added = added_special_.find(symbols);
    const bool is_special = added != added_special_.end() && added->second;
    std::optional<std::string> bytes = bytes_of_symbols(symbols);
    const bool is_plain = bytes.has_value() && !bytes->empty() && !is_special;
    if (is_plain) {
      ids_.emplace(symbols, id.get<int32_t>());
    } else if (added != added_special_.end()) {
      bytes = symbols;  // an added token that also stands in the vocabulary, spelled as it is
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat(field(), ": not spelled in byte-level symbols"));
    }
    file_.in_vocabulary[id.get<size_t>()] = is_plain;
    file_.tokens[id.get<size_t>()] = *std::move(bytes);
    return absl::OkStatus();
  }

  absl::Status place_added_token(const TokenizerFile::AddedToken& token, const json& vocab) {
    const std::string field = absl::StrCat("added_tokens[", describe(token.content), "].id");
    const auto in_vocab = vocab.find(token.content);
    if (in_vocab != vocab.end()) {
      if (*in_vocab == token.id) return absl::OkStatus();
      return wrong_value(field, absl::StrCat(describe(*in_vocab), " as in model.vocab"), token.id);
    }
    const json id = static_cast<uint64_t>(token.id);
    if (const std::string expected = claim(id); !expected.empty()) {
      return wrong_value(field, expected, id);
    }
    file_.tokens[static_cast<size_t>(token.id)] = token.content;
    return absl::OkStatus();
  }

  absl::Status read_byte_ids() {
    file_.byte_ids.fill(kNoId);
    for (size_t id = 0; id < file_.tokens.size(); ++id) {
      const std::string& token = file_.tokens[id];
      if (token.size() != 1 || !file_.in_vocabulary[id]) continue;
      file_.byte_ids[static_cast<unsigned char>(token[0])] = static_cast<int32_t>(id);
    }
    const auto missing = std::find(file_.byte_ids.begin(), file_.byte_ids.end(), kNoId);
    if (missing == file_.byte_ids.end()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("model.vocab: no token for the single byte ",
                                                   missing - file_.byte_ids.begin()));
  }

  absl::Status read_merges() {
    const json& merges = member(member(root_, "model"), "merges");
    if (!merges.is_array()) return wrong_value("model.merges", "an array", merges);
    file_.merges.reserve(merges.size());
    pairs_.reserve(merges.size());
    for (size_t rank = 0; rank < merges.size(); ++rank) {
      if (absl::Status status = read_merge(rank, merges[rank]); !status.ok()) return status;
    }
    return absl::OkStatus();
  }

  absl::Status read_merge(size_t rank, const json& merge) {
    const auto refuse = [&](const std::string& expected) {
      return wrong_value(absl::StrCat("model.merges[", rank, "]"), expected, merge);
    };
    std::string_view left, right;
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      left = merge[0].get_ref<const std::string&>();
      right = merge[1].get_ref<const std::string&>();
    } else if (merge.is_string()) {
      const std::string_view both = merge.get_ref<const std::string&>();
      const size_t space = both.find(' ');
      if (space == std::string_view::npos) return refuse("\"left right\"");
      left = both.substr(0, space);
      right = both.substr(space + 1);
    } else {
      return refuse("\"left right\" or [\"left\", \"right\"]");
    }
    const Merge ids{find(left), find(right), find(std::string(left).append(right))};
    if (ids.left == kNoId || ids.right == kNoId || ids.product == kNoId) {
      return refuse("tokens of the vocabulary");
    }
    const uint64_t pair =
        uint64_t{static_cast<uint32_t>(ids.left)} << 32 | static_cast<uint32_t>(ids.right);
    if (!pairs_.insert(pair).second) return refuse("a pair not merged before");
    file_.merges.push_back(ids);
    return absl::OkStatus();
  }

  // Vocabulary id of a token spelled in symbols. Special tokens are not found: no merge may make
  // one.
  int32_t find(std::string_view symbols) const {
    const auto found = ids_.find(absl::string_view(symbols.data(), symbols.size()));
    return found == ids_.end() ? kNoId : found->second;
  }

  const json& root_;
  TokenizerFile file_{};
  std::vector<bool> taken_;                               // by id
  absl::flat_hash_map<std::string, bool> added_special_;  // by content: whether it is special
  absl::flat_hash_map<std::string, int32_t> ids_;         // by bytes, without special tokens
  absl::flat_hash_set<uint64_t> pairs_;
};

}  // namespace

absl::StatusOr<TokenizerFile> parse_tokenizer_file(std::string_view text) {
  const absl::StatusOr<json> root = parse_json(text);
  if (!root.ok()) return root.status();
  return Reader(*root).read();
}

}  // namespace cogserve::text
