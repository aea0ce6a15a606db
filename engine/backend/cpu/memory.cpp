#include "engine/backend/cpu/memory.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <string>
#include <string_view>

namespace cogserve::cpu {
namespace {

constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

// A file that holds one number, or "max".
int64_t read_number(const char* path, int64_t otherwise) {
  std::ifstream file(path);
  int64_t value = 0;
  return file >> value ? value : otherwise;
}

// The number behind `key` in a file of keys and numbers.
int64_t read_entry(const char* path, std::string_view key, int64_t otherwise) {
  std::ifstream file(path);
  std::string word;
  int64_t value = 0;
  while (file >> word) {
    if (word == key && file >> value) return value;
  }
  return otherwise;
}

int64_t available_in_system() {
  const int64_t kib = read_entry("/proc/meminfo", "MemAvailable:", -1);
  return kib < 0 ? kUnlimited : kib * 1024;
}

// What the group holds includes cached files, which make room when memory is wanted.
int64_t available_in_group() {
  const int64_t limit = read_number("/sys/fs/cgroup/memory.max", kUnlimited);
  if (limit == kUnlimited) return kUnlimited;
  constexpr char kStat[] = "/sys/fs/cgroup/memory.stat";
  const int64_t cached =
      read_entry(kStat, "inactive_file", 0) + read_entry(kStat, "active_file", 0);
  return limit - std::max<int64_t>(read_number("/sys/fs/cgroup/memory.current", 0) - cached, 0);
}

}  // namespace

int64_t available_memory() { return std::min(available_in_system(), available_in_group()); }

int64_t total_memory() { return int64_t{sysconf(_SC_PHYS_PAGES)} * int64_t{sysconf(_SC_PAGESIZE)}; }

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
