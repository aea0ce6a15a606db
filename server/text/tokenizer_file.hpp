// The contents of a tokenizer.json of the Llama-3 kind, checked. Data only; lives while a Tokenizer
// is being made.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/text/merger.hpp"

namespace cogserve::text {

struct TokenizerFile {
  struct AddedToken {
    std::string content;
    int32_t id;
    bool special;
    bool normalized;  // matched after those that are not
  };

  std::vector<std::string> tokens;  // the bytes of each id; ids are 0..size-1 without a gap
  std::vector<bool> in_vocabulary;  // by id: a token of the model, not only an added one
  std::vector<AddedToken> added;
  std::vector<Merge> merges;          // in order of rank, no pair twice
  std::array<int32_t, 256> byte_ids;  // the token of each single byte
  bool ignore_merges;                 // a piece that is itself a token is taken whole
  std::string pattern;                // of the pretokenizer
};

// Reads byte-level BPE: `model` BPE with merges as "a b" or ["a", "b"], no normalizer, a
// pre_tokenizer that is ByteLevel or a Split by regex followed by ByteLevel. What it does not know
// it refuses (InvalidArgument), naming the field, what was expected and what was got. Checked: the
// ids are a bijection onto 0..n-1, all 256 bytes have a token, merges join tokens into tokens, and
// no merge makes a special token.
absl::StatusOr<TokenizerFile> parse_tokenizer_file(std::string_view json);

}  // namespace cogserve::text
