#include "server/text/merger.hpp"

#include <algorithm>
#include <cstddef>
#include <functional>

namespace cogserve::text {
namespace {

constexpr uint32_t kNoRank = ~uint32_t{0};
constexpr int32_t kNone = -1;

uint64_t join(uint32_t high, uint32_t low) { return uint64_t{high} << 32 | low; }

}  // namespace

Merger::Merger(const std::array<int32_t, 256>& byte_ids, const std::vector<Merge>& merges)
    : byte_ids_(byte_ids) {
  products_.reserve(merges.size());
  rank_of_.reserve(merges.size());
  for (const Merge& merge : merges) {
    const auto rank = static_cast<uint32_t>(products_.size());
    rank_of_.emplace(join(static_cast<uint32_t>(merge.left), static_cast<uint32_t>(merge.right)),
                     rank);
    products_.push_back(merge.product);
  }
}

uint32_t Merger::rank_of(int32_t left, int32_t right) const {
  const auto found = rank_of_.find(join(static_cast<uint32_t>(left), static_cast<uint32_t>(right)));
  return found == rank_of_.end() ? kNoRank : found->second;
}

void Merger::start(std::string_view piece, Scratch* scratch) const {
  auto& symbols = scratch->symbols;
  symbols.resize(piece.size());
  for (size_t i = 0; i < piece.size(); ++i) {
    const auto at = static_cast<int32_t>(i);
    symbols[i] = {byte_ids_[static_cast<unsigned char>(piece[i])], kNoRank, at - 1, at + 1};
  }
  symbols.back().next = kNone;
  scratch->heap.clear();
  for (size_t i = 0; i + 1 < symbols.size(); ++i) {
    symbols[i].rank = rank_of(symbols[i].id, symbols[i + 1].id);
    if (symbols[i].rank == kNoRank) continue;
    scratch->heap.push_back(join(symbols[i].rank, static_cast<uint32_t>(i)));
  }
  std::make_heap(scratch->heap.begin(), scratch->heap.end(), std::greater<>());
}

// Looks up the merge of the symbol at `at` with its new neighbour.
void Merger::set_rank(int32_t at, Scratch* scratch) const {
  auto& symbols = scratch->symbols;
  auto& symbol = symbols[static_cast<size_t>(at)];
  symbol.rank = symbol.next == kNone
                    ? kNoRank
                    : rank_of(symbol.id, symbols[static_cast<size_t>(symbol.next)].id);
  if (symbol.rank == kNoRank) return;
  scratch->heap.push_back(join(symbol.rank, static_cast<uint32_t>(at)));
  std::push_heap(scratch->heap.begin(), scratch->heap.end(), std::greater<>());
}

void Merger::merge(std::string_view piece, Scratch* scratch, std::vector<int32_t>* ids) const {
  if (piece.empty()) return;
  start(piece, scratch);
  auto& symbols = scratch->symbols;
  auto& heap = scratch->heap;
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const auto at = static_cast<uint32_t>(heap.back());
    const auto rank = static_cast<uint32_t>(heap.back() >> 32);
    heap.pop_back();
    auto& symbol = symbols[at];
    if (symbol.rank != rank) continue;  // one of the pair has been merged away since
    auto& absorbed = symbols[static_cast<size_t>(symbol.next)];
    symbol.id = products_[rank];
    symbol.next = absorbed.next;
    absorbed.rank = kNoRank;
    if (symbol.next != kNone) {
      symbols[static_cast<size_t>(symbol.next)].previous = static_cast<int32_t>(at);
    }
    set_rank(static_cast<int32_t>(at), scratch);
    if (symbol.previous != kNone) set_rank(symbol.previous, scratch);
  }
  for (int32_t at = 0; at != kNone; at = symbols[static_cast<size_t>(at)].next) {
    ids->push_back(symbols[static_cast<size_t>(at)].id);
  }
}

}  // namespace cogserve::text
