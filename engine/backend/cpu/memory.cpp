#include "engine/backend/cpu/memory.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

namespace cogserve::cpu {

void* allocate_memory(size_t bytes) {
  constexpr size_t kCacheLine = 64;
  constexpr size_t kHugePage = size_t{2} << 20;
  const bool large = bytes >= kHugePage;
  const size_t alignment = large ? kHugePage : kCacheLine;
  // More than the machine has can never be had, though the system might promise it.
  static const size_t machine_bytes =
      static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
  if (bytes > machine_bytes) return nullptr;
  const size_t padded = (std::max<size_t>(bytes, 1) + alignment - 1) / alignment * alignment;
  void* memory = std::aligned_alloc(alignment, padded);
  // Advice only: a refusal changes nothing but speed.
  if (memory != nullptr && large) madvise(memory, padded, MADV_HUGEPAGE);
  return memory;
}

}  // namespace cogserve::cpu
