// Text to token ids and back: byte-level BPE as the Hugging Face tokenizers library does it.
//
// Made once at start-up from tokenizer.json and shared by reference; immutable, so any number of
// threads may encode and decode at the same time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/text/added_token_finder.hpp"
#include "server/text/merger.hpp"
#include "server/text/pretokenizer.hpp"

namespace cogserve::text {

struct TokenizerFile;

class Tokenizer {
 public:
  // Loads any tokenizer.json of the Llama-3 kind (see tokenizer_file.hpp). An error names the file,
  // the field, what was expected and what was got.
  static absl::StatusOr<Tokenizer> load(const std::string& path);

  // The same from the file's text.
  static absl::StatusOr<Tokenizer> parse(std::string_view json);

  // The ids of `utf8`, without a begin-of-text token. No text ever becomes a special token: what
  // spells one is encoded as the characters it is made of. Linear in the length but for the merges
  // of one long piece, which are O(n log n). Invalid UTF-8 is InvalidArgument TEXT_UTF8; no other
  // error occurs with Llama-3's pattern.
  absl::StatusOr<std::vector<int32_t>> encode(std::string_view utf8) const;

  // The text of `ids`, special and unknown ids left out; bytes that form no character become
  // U+FFFD.
  std::string decode(std::span<const int32_t> ids) const;

  // Ids are 0..vocab_size()-1: the model's tokens and the added ones.
  int32_t vocab_size() const { return static_cast<int32_t>(is_special_.size()); }

  // The bytes a token stands for, often no whole character; the spelling of an added token. Empty
  // for an id outside the vocabulary (a model's output may be wider than its tokenizer).
  std::string_view token_bytes(int32_t id) const;

  // False for an id outside the vocabulary.
  bool is_special(int32_t id) const;

  // The id of an added token by its spelling, or of any other token by its bytes.
  std::optional<int32_t> token_to_id(std::string_view bytes) const;

 private:
  Tokenizer(const TokenizerFile& file, Pretokenizer pretokenizer);

  struct Encoding {  // one call of encode()
    std::vector<int32_t> ids;
    Merger::Scratch scratch;
  };
  absl::Status encode_around(std::span<const AddedTokenFinder* const> finders,
                             std::string_view text, Encoding* encoding) const;
  absl::Status encode_plain(std::string_view text, Encoding* encoding) const;
  void store_tokens(const TokenizerFile& file);
  void index_tokens(const TokenizerFile& file);

  std::vector<char> bytes_;        // of all tokens, one behind the other
  std::vector<uint32_t> offsets_;  // of each token in bytes_, and the end
  std::vector<bool> is_special_;
  // The tokens that text may become, by their bytes. Keys are views into bytes_, whose buffer stays
  // where it is when the tokenizer is moved.
  absl::flat_hash_map<absl::string_view, int32_t> index_;
  std::vector<bool> is_whole_;  // whether a piece of exactly the token's bytes becomes the token
  absl::flat_hash_map<std::string, int32_t> added_;
  AddedTokenFinder raw_finder_;         // added tokens that are not special,
  AddedTokenFinder normalized_finder_;  // in the two rounds in which the library looks for them
  Merger merger_;
  Pretokenizer pretokenizer_;
};

}  // namespace cogserve::text
