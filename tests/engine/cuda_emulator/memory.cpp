#include "tests/engine/cuda_emulator/memory.hpp"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <new>

#include "tests/engine/cuda_emulator/accesses.hpp"
#include "tests/engine/cuda_emulator/emulator.hpp"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes)
#endif

namespace cogserve::emulator {
namespace {

constexpr size_t kReservedBytes = size_t{1} << 40;  // addresses, not memory
constexpr size_t kPage = 4096;

size_t whole_pages(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

struct Arena {
  Arena() {
    void* const memory = mmap(nullptr, kReservedBytes, PROT_NONE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    begin = top = static_cast<std::byte*>(memory);
  }

  std::byte* begin;
  std::byte* top;  // what lies below was given out once
  size_t in_use = 0;
  int working = 0;
  std::map<const std::byte*, Allocation> allocations;
  Allocation* latest = nullptr;  // that was found
};

Arena& arena() {
  static Arena& arena = *new Arena;  // outlives what static objects free
  return arena;
}

void protect(std::byte* begin, size_t bytes, int protection) {
  if (bytes > 0 && mprotect(begin, bytes, protection) != 0) throw std::bad_alloc();
}

// For each of the bytes, whether it was written; null if they are the host's.
uint8_t* marks_of(const void* address, size_t bytes) {
  if (bytes == 0 || !is_device_address(address)) return nullptr;
  const Allocation* const allocation = find_allocation(address, bytes);
  if (allocation == nullptr) {
    throw Error("a transfer or product of device memory that is not allocated");
  }
  return allocation->written + (static_cast<const std::byte*>(address) - allocation->begin);
}

}  // namespace

void* allocate_device(size_t bytes) {
  Arena& device = arena();
  const size_t room = whole_pages(bytes) + kPage;  // a page behind it that is nobody's
  if (bytes > kDeviceBytes - device.in_use) return nullptr;
  if (room > kReservedBytes - (device.top - device.begin)) throw Error("out of addresses");
  std::byte* const begin = device.top;
  device.top += room;
  device.in_use += bytes;
  if (device.working > 0) protect(begin, room, PROT_READ | PROT_WRITE);
  ASAN_POISON_MEMORY_REGION(begin + bytes, room - bytes);
  auto* const written = static_cast<uint8_t*>(std::calloc(bytes + 1, 1));
  if (written == nullptr) throw std::bad_alloc();
  device.allocations[begin] = {begin, bytes, written, new ByteHistory(bytes)};
  return begin;
}

void free_device(void* memory) {
  if (memory == nullptr) return;
  Arena& device = arena();
  const auto found = device.allocations.find(static_cast<std::byte*>(memory));
  if (found == device.allocations.end()) throw Error("freed what was not allocated");
  const Allocation freed = found->second;
  ASAN_POISON_MEMORY_REGION(freed.begin, freed.bytes);
  madvise(freed.begin, whole_pages(freed.bytes), MADV_DONTNEED);
  std::free(freed.written);
  delete freed.history;
  device.in_use -= freed.bytes;
  device.latest = nullptr;
  device.allocations.erase(found);
}

DeviceWork::DeviceWork() {
  Arena& device = arena();
  if (device.working++ == 0) {
    protect(device.begin, device.top - device.begin, PROT_READ | PROT_WRITE);
  }
}

DeviceWork::~DeviceWork() {
  Arena& device = arena();
  if (--device.working == 0) mprotect(device.begin, device.top - device.begin, PROT_NONE);
}

bool is_device_address(const void* address) {
  const auto* const at = static_cast<const std::byte*>(address);
  return at >= arena().begin && at < arena().begin + kReservedBytes;
}

Allocation* find_allocation(const void* address, size_t bytes) {
  Arena& device = arena();
  const auto* const at = static_cast<const std::byte*>(address);
  const auto holds = [&](const Allocation& allocation) {
    return at >= allocation.begin && at + bytes <= allocation.begin + allocation.bytes;
  };
  if (device.latest != nullptr && holds(*device.latest)) return device.latest;
  auto next = device.allocations.upper_bound(at);
  if (next == device.allocations.begin()) return nullptr;
  Allocation& allocation = std::prev(next)->second;
  if (!holds(allocation)) return nullptr;
  return device.latest = &allocation;
}

void note_written(const void* to, size_t bytes) {
  if (uint8_t* const written = marks_of(to, bytes)) std::memset(written, 1, bytes);
}

void note_product(uint32_t block, const void* to, size_t bytes) {
  note_written(to, bytes);
  if (!is_device_address(to)) return;
  const Allocation* const allocation = find_allocation(to, bytes);
  const size_t offset = static_cast<const std::byte*>(to) - allocation->begin;
  for (size_t i = offset; i < offset + bytes; ++i) allocation->history->at(i).set_written(block);
}

void note_copied(const void* to, const void* from, size_t bytes) {
  const uint8_t* const source = marks_of(from, bytes);
  uint8_t* const written = marks_of(to, bytes);
  if (written == nullptr) return;
  if (source == nullptr) {
    std::memset(written, 1, bytes);
  } else {
    std::memmove(written, source, bytes);
  }
}

void check_written(const void* from, size_t bytes) {
  const uint8_t* const written = marks_of(from, bytes);
  if (written != nullptr && std::memchr(written, 0, bytes) != nullptr) {
    throw Error("a product of device memory that nobody has written");
  }
}

size_t free_device_bytes() { return kDeviceBytes - arena().in_use; }

}  // namespace cogserve::emulator
