#include "engine/backend/cpu/memory.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <limits>

namespace cogserve::cpu {

void* allocate_memory(size_t bytes) {
  constexpr size_t kCacheLine = 64;
  constexpr size_t kHugePage = size_t{2} << 20;
  const bool large = bytes >= kHugePage;
  const size_t alignment = large ? kHugePage : kCacheLine;
  if (bytes > static_cast<size_t>(std::numeric_limits<ptrdiff_t>::max()) - alignment) {
    return nullptr;
  }
  const size_t padded = (std::max<size_t>(bytes, 1) + alignment - 1) / alignment * alignment;
  void* memory = std::aligned_alloc(alignment, padded);
  // Advice only: a refusal changes nothing but speed.
  if (memory != nullptr && large) madvise(memory, padded, MADV_HUGEPAGE);
  return memory;
}

}  // namespace cogserve::cpu
