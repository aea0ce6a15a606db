// What GCC calls before each load and store of code that is compiled with -fsanitize=thread.
// ThreadSanitizer's own library is not linked: these stand in its place. A memcpy or memset that
// the compiler does not take apart is not reported.
#include <cstddef>
#include <cstdint>

#include "tests/engine/cuda_emulator/accesses.hpp"
#include "tests/engine/cuda_emulator/emulator.hpp"

using cogserve::emulator::Access;
using cogserve::emulator::note_access;

namespace {

// Of a number, which a GPU takes at multiples of its size alone.
void note_number(const void* address, size_t bytes, Access access, const void* code) {
  if (!cogserve::emulator::running_thread().in_kernel) return;
  if (reinterpret_cast<uintptr_t>(address) % bytes != 0) {
    cogserve::emulator::fail_access("a misaligned address", address, bytes, code);
  }
  note_access(address, bytes, access, code);
}

}  // namespace

// The compiler's names.
#define COGSERVE_ACCESS(name, bytes, access)                          \
  extern "C" void __tsan_##name(void* address);                       \
  extern "C" void __tsan_##name(void* address) {                      \
    note_number(address, bytes, access, __builtin_return_address(0)); \
  }
#define COGSERVE_ACCESSES(bytes)                     \
  COGSERVE_ACCESS(read##bytes, bytes, Access::kRead) \
  COGSERVE_ACCESS(write##bytes, bytes, Access::kWrite)

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
