#include "engine/backend/cpu/memory.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <string>

namespace cogserve::cpu {
namespace {

constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

// A file that holds one number, or "max".
int64_t read_number(const char* path, int64_t otherwise) {
  std::ifstream file(path);
  int64_t value = 0;
  return file >> value ? value : otherwise;
}

int64_t available_in_system() {
  std::ifstream file("/proc/meminfo");
  std::string word;
  int64_t kib = 0;
  while (file >> word) {
    if (word == "MemAvailable:" && file >> kib) return kib * 1024;
  }
  return kUnlimited;
}

int64_t available_in_group() {
  const int64_t limit = read_number("/sys/fs/cgroup/memory.max", kUnlimited);
  return limit == kUnlimited ? kUnlimited : limit - read_number("/sys/fs/cgroup/memory.current", 0);
}

}  // namespace

int64_t available_memory() { return std::min(available_in_system(), available_in_group()); }

int64_t total_memory() {
  return int64_t{sysconf(_SC_PHYS_PAGES)} * int64_t{sysconf(_SC_PAGESIZE)};
}

void* allocate_memory(size_t bytes) {
  constexpr size_t kCacheLine = 64;
  constexpr size_t kHugePage = size_t{2} << 20;
  const bool large = bytes >= kHugePage;
  const size_t alignment = large ? kHugePage : kCacheLine;
  // More than the machine has can never be had, though the system might promise it.
  static const auto machine_bytes = static_cast<size_t>(total_memory());
  if (bytes > machine_bytes) return nullptr;
  const size_t padded = (std::max<size_t>(bytes, 1) + alignment - 1) / alignment * alignment;
  void* memory = std::aligned_alloc(alignment, padded);
  // Advice only: a refusal changes nothing but speed.
  if (memory != nullptr && large) madvise(memory, padded, MADV_HUGEPAGE);
  return memory;
}

}  // namespace cogserve::cpu
