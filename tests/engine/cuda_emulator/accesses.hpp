// What kernels do with memory, looked at access by access: compute-sanitizer's memcheck, racecheck
// and initcheck for emulated kernels. The compiler reports each load and store (see
// instrumentation.cpp), the emulator's own instructions report theirs. Found are
//   - accesses that are no device memory, no shared memory and not the thread's own;
//   - reads of what was never written;
//   - races: two accesses of one byte, not both reads or atomics, by two threads that no barrier
//     orders. Threads of one block are ordered by __syncthreads, those of one warp by __syncwarp
//     too; blocks of one launch by nothing. Shuffles and matrix instructions order no memory.
// It does not depend on the order in which threads are taken.
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

// Who wrote a byte last, and who has read it since.
class ByteState {
 public:
  // What is wrong with the access, "race" and why, or null. Notes it.
  const char* note(const Accessor& by, Access access);
  bool written_in(uint32_t block) const { return writer_block_ == block; }

 private:
  const char* race_with_writer(const Accessor& by, Access access) const;
  const char* race_with_readers(const Accessor& by) const;
  void note_reader(const Accessor& by);

  uint32_t writer_block_ = 0;
  Stamp writer_stamp_ = 0;
  uint32_t reader_block_ = 0;
  uint32_t first_reader_block_ = 0;  // of the launch
  uint32_t reader_warps_ = 0;        // a bit for each that has read since barriers(reader_stamp_)
  Stamp reader_stamp_ = 0;           // of the last reader
  Stamp other_stamp_ = 0;            // of the last of the same warp that was another thread
  uint16_t writer_ = 0;
  uint16_t reader_ = 0;
  bool has_other_ = false;
  bool written_atomically_ = false;
};

// The states of an allocation's bytes; there when they are needed.
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
  const char* kernel = "";
  Accessor accessor;
  const std::byte* stack = nullptr;
  size_t stack_bytes = 0;
  const std::byte* shared = nullptr;
  size_t shared_bytes = 0;
  ByteHistory* shared_history = nullptr;
};
RunningThread& running_thread();

// Ends the thread, see fail(), if there is something wrong. Does nothing outside of kernels. `code`
// is the place that makes the access, if it is one of its own (see access_pattern.hpp).
void note_access(const void* address, size_t bytes, Access access, const void* code = nullptr);

}  // namespace cogserve::emulator
