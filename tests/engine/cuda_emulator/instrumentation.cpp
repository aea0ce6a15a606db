// What the compiler calls before each load and store of code that is compiled with
// -fsanitize=thread. ThreadSanitizer's own library is not linked: these stand in its place.
#include <cstddef>

#include "tests/engine/cuda_emulator/accesses.hpp"

using cogserve::emulator::Access;
using cogserve::emulator::note_access;

// NOLINTBEGIN: the compiler's names
#define COGSERVE_ACCESS(name, bytes, access)                          \
  extern "C" void __tsan_##name(void* address);                       \
  extern "C" void __tsan_##name(void* address) {                      \
    note_access(address, bytes, access, __builtin_return_address(0)); \
  }
#define COGSERVE_ACCESSES(bytes)                                 \
  COGSERVE_ACCESS(read##bytes, bytes, Access::kRead)             \
  COGSERVE_ACCESS(write##bytes, bytes, Access::kWrite)           \
  COGSERVE_ACCESS(unaligned_read##bytes, bytes, Access::kRead)   \
  COGSERVE_ACCESS(unaligned_write##bytes, bytes, Access::kWrite) \
  COGSERVE_ACCESS(volatile_read##bytes, bytes, Access::kRead)    \
  COGSERVE_ACCESS(volatile_write##bytes, bytes, Access::kWrite)

COGSERVE_ACCESSES(1)
COGSERVE_ACCESSES(2)
COGSERVE_ACCESSES(4)
COGSERVE_ACCESSES(8)
COGSERVE_ACCESSES(16)

extern "C" {

void __tsan_init();
void __tsan_func_entry(void*);
void __tsan_func_exit();
void __tsan_read_range(void* address, size_t bytes);
void __tsan_write_range(void* address, size_t bytes);
void __tsan_vptr_update(void**, void*);

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_read_range(void* address, size_t bytes) {
  note_access(address, bytes, Access::kRead, __builtin_return_address(0));
}
void __tsan_write_range(void* address, size_t bytes) {
  note_access(address, bytes, Access::kWrite, __builtin_return_address(0));
}
void __tsan_vptr_update(void**, void*) {}

}  // extern "C"
// NOLINTEND
