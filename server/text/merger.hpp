// Byte-pair merging: the ids of one piece of text, by the ranked merges of tokenizer.json.
//
// Owned by Tokenizer; immutable after construction, so any thread may merge with a scratch of its
// own.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace cogserve::text {

struct Merge {
  int32_t left;
  int32_t right;
  int32_t product;
};

class Merger {
 public:
  // Memory that calls of merge() share, so that they seldom allocate.
  class Scratch {
    friend class Merger;
    struct Symbol {
      int32_t id;
      uint32_t rank;  // of the merge with the next symbol; kNoRank when there is none
      int32_t previous;
      int32_t next;  // -1: none
    };
    std::vector<Symbol> symbols;
    std::vector<uint64_t> heap;  // rank, then position: the lowest is the next merge
  };

  // `byte_ids` are the tokens of the 256 bytes; `merges` stand in order of rank and name each pair
  // once.
  Merger(const std::array<int32_t, 256>& byte_ids, const std::vector<Merge>& merges);

  // Appends the ids of `piece` (below 2 GiB): the merge of lowest rank first, the leftmost of
  // equals, until none applies. O(n log n).
  void merge(std::string_view piece, Scratch* scratch, std::vector<int32_t>* ids) const;

 private:
  uint32_t rank_of(int32_t left, int32_t right) const;
  void start(std::string_view piece, Scratch* scratch) const;
  void set_rank(int32_t at, Scratch* scratch) const;

  std::array<int32_t, 256> byte_ids_;
  std::vector<int32_t> products_;                    // by rank
  absl::flat_hash_map<uint64_t, uint32_t> rank_of_;  // by left << 32 | right
};

}  // namespace cogserve::text
