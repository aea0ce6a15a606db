#include "engine/schedule/block_manager.hpp"

#include "engine/base/check.hpp"

namespace cogserve {

BlockManager::BlockManager(int num_blocks) {
  check(num_blocks >= 0, "a pool has no negative size");
  references_.resize(num_blocks);
  free_.reserve(num_blocks);
  for (int32_t block = num_blocks - 1; block >= 0; --block) free_.push_back(block);
}

int32_t BlockManager::allocate() {
  check(!free_.empty(), "no free block");
  const int32_t block = free_.back();
  free_.pop_back();
  references_[block] = 1;
  return block;
}

void BlockManager::share(int32_t block) {
  check(references(block) > 0, "a free block cannot be shared");
  ++references_[block];
}

void BlockManager::release(int32_t block) {
  check(references(block) > 0, "a free block cannot be released");
  if (--references_[block] == 0) free_.push_back(block);
}

int BlockManager::references(int32_t block) const {
  check(block >= 0 && block < num_blocks(), "no such block");
  return references_[block];
}

}  // namespace cogserve
