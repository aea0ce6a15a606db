// Counts and hands out KV blocks. Knows ids, no memory. Engine thread.
#pragma once

#include <cstdint>
#include <vector>

namespace cogserve {

// Blocks that hold `tokens` tokens.
constexpr int blocks_for(int tokens, int block_size) {
  return (tokens + block_size - 1) / block_size;
}

// Blocks are reference-counted, so that a prefix can be shared; a block is free when its count is
// zero. Lowest-numbered use order is not promised.
class BlockManager {
 public:
  explicit BlockManager(int num_blocks);

  int num_blocks() const { return static_cast<int>(references_.size()); }
  int num_free() const { return static_cast<int>(free_.size()); }
  int references(int32_t block) const;

  // A block with one reference. Precondition: num_free() > 0.
  int32_t allocate();
  // One more owner of a used block.
  void share(int32_t block);
  // One owner less; the block is free after the last. Releasing a free block is a broken
  // invariant.
  void release(int32_t block);

 private:
  std::vector<int32_t> references_;
  std::vector<int32_t> free_;  // a stack
};

}  // namespace cogserve
