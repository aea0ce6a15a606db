// Finds added tokens in text: the ones that are not special stand for themselves wherever a user
// writes them. (Special tokens are never looked for: their spelling in a text is just text.)
//
// Owned by Tokenizer; immutable, so any thread may search.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace cogserve::text {

class AddedTokenFinder {
 public:
  struct Found {
    size_t offset;
    size_t length;  // 0 when there is none; the offset is then the end of the text
    int32_t id;
  };

  // `content` must not be empty.
  void add(const std::string& content, int32_t id);

  // The leftmost token in `text` at or behind `from`; of those, the longest. One hash look-up per
  // distinct length at each place where a token may begin.
  Found find(std::string_view text, size_t from) const;

 private:
  absl::flat_hash_map<std::string, int32_t> ids_;
  std::vector<size_t> lengths_;  // distinct, longest first
  std::string first_bytes_;      // distinct
};

}  // namespace cogserve::text
