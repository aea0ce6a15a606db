// What kernels do with memory, looked at access by access: compute-sanitizer's memcheck, racecheck
// and initcheck for emulated kernels. The compiler reports each load and store (see
// instrumentation.cpp), the emulator's own instructions report theirs. Found are
//   - accesses that are no device memory, no shared memory and not the thread's own, or that are
//     not aligned to their size;
//   - reads of what was never written, and accesses of what an asynchronous copy is still to write;
//   - in a kernel that began early (see ptx::begin_kernel) and has not waited, writes, and reads of
//     what kernels, cuBLASLt's too, have written since the host waited for the device;
//   - races: two accesses of one byte, not both reads or both atomics, by two threads that no
//     barrier orders. Threads of one block are ordered by __syncthreads, those of one warp by
//     __syncwarp too; blocks of one launch by nothing. Shuffles and matrix instructions order no
//     memory.
// Which of a kernel's races is found first depends on the order in which threads are taken; that
// one is found does not.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace cogserve::emulator {

enum class Access : uint8_t { kRead, kWrite, kAtomic };

// When a thread of a block does something: a block's barriers count in the upper half, its warp's
// since then in the lower one.
using Stamp = uint32_t;
constexpr Stamp barriers(Stamp stamp) { return stamp >> 16; }

struct Accessor {
  uint32_t block = 0;        // blocks are counted through all launches, from 1 on
  uint32_t launch_from = 0;  // the first block of its launch
  Stamp stamp = 0;
  uint16_t thread = 0;
};

// Those who have read a byte in a launch, or changed it atomically: as much as tells whether any of
// them is not ordered before somebody.
class Users {
 public:
  void note(const Accessor& by);
  // "race" and why, or null.
  const char* race_with(const Accessor& by) const;

 private:
  uint32_t block_ = 0;        // of the last
  uint32_t first_block_ = 0;  // of the launch
  uint32_t warps_ = 0;        // a bit for each that came since barriers(stamp_)
  Stamp stamp_ = 0;           // of the last
  Stamp other_stamp_ = 0;     // of the last of the same warp that was another thread
  uint16_t thread_ = 0;       // the last
  bool has_other_ = false;
};

// Who did what to a byte of memory.
class ByteState {
 public:
  // What is wrong with the access, or null. Notes it.
  const char* note(const Accessor& by, Access access);
  bool written_in(uint32_t block) const {
    return writer_block_ == block || atomics_block_ == block;
  }
  bool written_after(uint32_t block) const {
    return writer_block_ > block || atomics_block_ > block;
  }
  // By what is no kernel of ours and comes after all of the last one.
  void set_written(uint32_t block) { writer_block_ = block; }
  // From the start of an asynchronous copy to its end, in one block.
  void set_in_flight(uint32_t block) { in_flight_in_ = block; }

 private:
  const char* race_with_writer(const Accessor& by) const;

  uint32_t writer_block_ = 0;
  Stamp writer_stamp_ = 0;
  uint32_t atomics_block_ = 0;
  uint32_t in_flight_in_ = 0;
  Users readers_;
  Users atomics_;
  uint16_t writer_ = 0;
};

// The states of an allocation's bytes, many times their size; there when they are needed.
class ByteHistory {
 public:
  explicit ByteHistory(size_t bytes) : pages_(bytes / kPageBytes + 1) {}
  ByteState& at(size_t offset) {
    std::unique_ptr<ByteState[]>& page = pages_[offset / kPageBytes];
    if (page == nullptr) page = std::make_unique<ByteState[]>(kPageBytes);
    return page[offset % kPageBytes];
  }

 private:
  static constexpr size_t kPageBytes = 1024;
  std::vector<std::unique_ptr<ByteState[]>> pages_;
};

// The thread that is running, as far as accesses are concerned. Kept by the emulator.
struct RunningThread {
  bool in_kernel = false;  // between its first and its last statement
  bool early = false;      // earlier kernels may still run
  const char* kernel = "";
  Accessor accessor;
  const std::byte* stack = nullptr;
  size_t stack_bytes = 0;
  const std::byte* shared = nullptr;
  size_t shared_bytes = 0;
  ByteHistory* shared_history = nullptr;
};
RunningThread& running_thread();

// The host has waited for all blocks so far.
void settle(uint32_t blocks);

// Ends the thread, see fail(), if there is something wrong. Does nothing outside of kernels. `code`
// is the place that makes the access, if it is one of its own (see access_pattern.hpp).
void note_access(const void* address, size_t bytes, Access access, const void* code = nullptr);

// Between the two, the bytes of shared memory are an asynchronous copy's.
void begin_flight(const void* shared, size_t bytes);
void end_flight(const void* shared, size_t bytes);

}  // namespace cogserve::emulator
