#include "tests/engine/cuda_emulator/accesses.hpp"

#include <cstring>

#include "tests/engine/cuda_emulator/access_pattern.hpp"
#include "tests/engine/cuda_emulator/emulator.hpp"
#include "tests/engine/cuda_emulator/memory.hpp"

extern "C" const char __executable_start;
extern "C" const char edata;

namespace cogserve::emulator {
namespace {

constexpr unsigned kWarpSize = 32;

bool lies_in(const std::byte* at, size_t bytes, const std::byte* begin, size_t size) {
  return at >= begin && at + bytes <= begin + size;
}

const char* note_shared(size_t offset, size_t bytes, Access access) {
  const RunningThread& thread = running_thread();
  Accessor accessor = thread.accessor;
  accessor.launch_from = accessor.block;  // other blocks have memory of their own
  for (size_t i = offset; i < offset + bytes; ++i) {
    ByteState& state = thread.shared_history->at(i);
    if (access != Access::kWrite && !state.written_in(accessor.block)) {
      return "a read of shared memory that the block has not written";
    }
    if (const char* race = state.note(accessor, access)) return race;
  }
  return nullptr;
}

const char* note_device(const std::byte* at, size_t bytes, Access access) {
  Allocation* const allocation = find_allocation(at, bytes);
  if (allocation == nullptr) return "an access beyond what was allocated on the device";
  const size_t offset = at - allocation->begin;
  const Accessor& accessor = running_thread().accessor;
  for (size_t i = offset; i < offset + bytes; ++i) {
    if (access != Access::kWrite && allocation->written[i] == 0) {
      return "a read of device memory that nobody has written";
    }
    if (access != Access::kRead) allocation->written[i] = 1;
    if (const char* race = allocation->history->at(i).note(accessor, access)) return race;
  }
  return nullptr;
}

const char* note_other(const std::byte* at, size_t bytes, Access access) {
  const auto* const image = reinterpret_cast<const std::byte*>(&__executable_start);
  const size_t image_bytes = reinterpret_cast<const std::byte*>(&edata) - image;
  if (access == Access::kRead && lies_in(at, bytes, image, image_bytes)) return nullptr;
  return "an access of memory that is not the device's";
}

}  // namespace

const char* ByteState::race_with_writer(const Accessor& by, Access access) const {
  if (writer_block_ < by.launch_from) return nullptr;
  if (access == Access::kAtomic && written_atomically_) return nullptr;
  if (writer_block_ != by.block) return "race with another block's write";
  if (writer_ == by.thread) return nullptr;
  if (writer_ / kWarpSize == by.thread / kWarpSize) {
    return writer_stamp_ < by.stamp ? nullptr : "race with a write of the same warp";
  }
  return barriers(writer_stamp_) < barriers(by.stamp) ? nullptr : "race with another warp's write";
}

const char* ByteState::race_with_readers(const Accessor& by) const {
  if (reader_block_ < by.launch_from) return nullptr;
  if (first_reader_block_ != by.block || reader_block_ != by.block) {
    return "race with another block's read";
  }
  if (barriers(reader_stamp_) == barriers(by.stamp) &&
      (reader_warps_ & ~(1u << by.thread / kWarpSize)) != 0) {
    return "race with another warp's read";
  }
  if (reader_ / kWarpSize != by.thread / kWarpSize) return nullptr;
  const bool after_reader = reader_ == by.thread || reader_stamp_ < by.stamp;
  const bool after_other = !has_other_ || other_stamp_ < by.stamp;
  return after_reader && after_other ? nullptr : "race with a read of the same warp";
}

void ByteState::note_reader(const Accessor& by) {
  if (reader_block_ < by.launch_from) first_reader_block_ = by.block;
  const unsigned warp = 1u << by.thread / kWarpSize;
  const bool later = reader_block_ != by.block || barriers(reader_stamp_) != barriers(by.stamp);
  if (later || reader_ / kWarpSize != by.thread / kWarpSize) {
    has_other_ = false;
  } else if (reader_ != by.thread) {
    has_other_ = true;
    other_stamp_ = reader_stamp_;
  }
  reader_warps_ = later ? warp : reader_warps_ | warp;
  reader_block_ = by.block;
  reader_stamp_ = by.stamp;
  reader_ = by.thread;
}

const char* ByteState::note(const Accessor& by, Access access) {
  const char* race = race_with_writer(by, access);
  if (access == Access::kRead) {
    note_reader(by);
    return race;
  }
  if (race == nullptr) race = race_with_readers(by);
  writer_block_ = by.block;
  writer_stamp_ = by.stamp;
  writer_ = by.thread;
  written_atomically_ = access == Access::kAtomic;
  return race;
}

RunningThread& running_thread() {
  static RunningThread thread;
  return thread;
}

void note_access(const void* address, size_t bytes, Access access, const void* code) {
  const RunningThread& thread = running_thread();
  if (!thread.in_kernel) return;
  const auto* const at = static_cast<const std::byte*>(address);
  if (lies_in(at, bytes, thread.stack, thread.stack_bytes)) return;
  const char* wrong = nullptr;
  if (lies_in(at, bytes, thread.shared, thread.shared_bytes)) {
    wrong = note_shared(at - thread.shared, bytes, access);
    note_pattern(at, bytes, access, true, code);
  } else if (is_device_address(at)) {
    wrong = note_device(at, bytes, access);
    note_pattern(at, bytes, access, false, code);
  } else {
    wrong = note_other(at, bytes, access);
  }
  if (wrong != nullptr) fail_access(wrong, address, bytes, code);
}

}  // namespace cogserve::emulator
