// Runs CUDA kernels on the CPU, so that the kernels' own source is tested where there is no GPU.
//
// A block's threads are fibers of the calling thread; a fiber runs until it has to wait for others
// (a barrier, a shuffle, a matrix instruction). Blocks run one after the other. These mistakes go
// wrong on a GPU by chance and here for certain, as an Error or as numbers that are not the GPU's:
//   - a barrier that not all threads of the block, or lanes of the warp, reach at the same place;
//   - shared memory that was never written: it is full of NaN (integers: -1) when a block starts;
//   - asynchronous copies that nobody waited for: they happen in the wait, not before;
//   - misaligned or foreign addresses given to matrix loads and asynchronous copies.
// Where the compiler reports loads and stores (see accesses.hpp), foreign addresses, memory that
// nobody has written, races within a launch and what a kernel that begins early should have waited
// for are found in all of them; elsewhere a missing barrier shows only if results change when
// threads are taken in another order (see Order), and shared memory is a heap block of exactly the
// launch's size, for AddressSanitizer. Races between streams and in the GPU's memory model do not
// show. Not thread-safe: one emulator per process.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>

namespace cogserve::emulator {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Index {
  unsigned x = 1;
  unsigned y = 1;
  unsigned z = 1;
};

// The order in which ready threads of a block are taken.
enum class Order { kAscending, kDescending, kShuffled };
void set_order(Order order);

// Runs `body` once for every thread of every block. Throws Error at the first fault.
void run_grid(Index grid, Index block, size_t shared_bytes, const std::function<void()>& body,
              const char* name = "kernel");

// From here to the end of the scope the running thread's accesses are those of a kernel.
class InKernel {
 public:
  InKernel();
  InKernel(const InKernel&) = delete;
  InKernel& operator=(const InKernel&) = delete;
  ~InKernel();
};

// Of the thread that is running.
Index thread_index();
Index block_index();
Index block_shape();
Index grid_shape();
int lane();

std::byte* shared_memory();
// Ends the running thread, and with it the launch, with an Error.
void fail(const char* what);
void fail_access(const char* what, const void* address, size_t bytes, const void* code);
// Fails unless [address, address + bytes) lies in shared memory and is aligned to `alignment`.
void check_shared(const void* address, size_t bytes, size_t alignment);

// From here on the running thread is one of a kernel that has begun before the last one ended.
void begin_early();
// All earlier kernels are done.
void wait_for_earlier_kernels();
// Of the host, which waits for the device.
void settle_all_blocks();
// A number among the blocks' for what changes memory and is no kernel of ours.
uint32_t count_block();
// Fails if it has not waited: a kernel must not end before those that it follows.
void check_has_waited();

void sync_block(int line);
// `orders`: memory too, which only __syncwarp does.
void sync_warp(const char* what, int line, bool orders = false);

// A slot of the running thread, and where those of its whole warp start, for one exchange.
inline constexpr size_t kSlotBytes = 64;
struct Slots {
  std::byte* mine;
  const std::byte* all;  // 32 * kSlotBytes
};
Slots exchange_slots();

// Every lane of the warp gives `value` and gets those of all 32.
template <typename T>
__attribute__((no_sanitize("thread"))) std::array<T, 32> exchange(const T& value, const char* what,
                                                                  int line) {
  static_assert(sizeof(T) <= kSlotBytes);
  const Slots slots = exchange_slots();
  std::memcpy(slots.mine, &value, sizeof(T));
  sync_warp(what, line);
  std::array<T, 32> values;
  for (size_t i = 0; i < 32; ++i) std::memcpy(&values[i], slots.all + i * kSlotBytes, sizeof(T));
  return values;
}

// Every lane of the warp gives `value` and gets that of the lane it names.
template <typename T>
__attribute__((no_sanitize("thread"))) T take_from(int source, const T& value, const char* what,
                                                   int line) {
  static_assert(sizeof(T) <= kSlotBytes);
  const Slots slots = exchange_slots();
  std::memcpy(slots.mine, &value, sizeof(T));
  sync_warp(what, line);
  T taken;
  std::memcpy(&taken, slots.all + source * kSlotBytes, sizeof(T));
  return taken;
}

// cp.async: noted here, done in wait_copies. `bytes` of `to` beyond `from_bytes` become zero.
void start_copy(void* to, const void* from, size_t bytes, size_t from_bytes);
void commit_copies();
void wait_copies(size_t pending);

}  // namespace cogserve::emulator
