// The emulator's device memory: addresses of its own, which the host may not touch.
//
// While no work of a stream runs, the pages are protected: a host that reads or writes what is the
// device's ends by a segmentation fault here, as it would with a GPU. Addresses are never given out
// twice, so that what is used after it was freed is found, too; a process has 1 TiB of them. Pinned
// memory is plain memory.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cogserve::emulator {

class ByteHistory;

// 256-byte aligned; null if the device has none left. Throws Error when addresses have run out.
void* allocate_device(size_t bytes);
void free_device(void* memory);

// While one lives, device memory can be touched: the device is working.
class DeviceWork {
 public:
  DeviceWork();
  DeviceWork(const DeviceWork&) = delete;
  DeviceWork& operator=(const DeviceWork&) = delete;
  ~DeviceWork();
};

struct Allocation {
  std::byte* begin;
  size_t bytes;
  uint8_t* written;      // for each byte, whether anybody has written it
  ByteHistory* history;  // who used it: see accesses.hpp
};

bool is_device_address(const void* address);
// The living allocation that [address, address + bytes) lies in, or null.
Allocation* find_allocation(const void* address, size_t bytes);

// Bytes that a fill has written. Throws Error for device memory that nobody has allocated, as what
// follows; does nothing for the host's.
void note_written(const void* to, size_t bytes);
// The same of a library's kernel, the `block`-th of all blocks: see accesses.hpp.
void note_product(uint32_t block, const void* to, size_t bytes);
// A copy, which may bring along what nobody has written.
void note_copied(const void* to, const void* from, size_t bytes);
// Throws Error unless all of it was written.
void check_written(const void* from, size_t bytes);

inline constexpr size_t kDeviceBytes = size_t{4} << 30;
size_t free_device_bytes();

}  // namespace cogserve::emulator
