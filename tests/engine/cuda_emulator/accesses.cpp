#include "tests/engine/cuda_emulator/accesses.hpp"

#include <link.h>

#include "tests/engine/cuda_emulator/access_pattern.hpp"
#include "tests/engine/cuda_emulator/emulator.hpp"
#include "tests/engine/cuda_emulator/memory.hpp"

namespace cogserve::emulator {
namespace {

constexpr unsigned kWarpSize = 32;

unsigned warp_of(unsigned thread) { return thread / kWarpSize; }

struct Range {
  const std::byte* begin;
  size_t bytes;
};

bool lies_in(const std::byte* at, size_t bytes, const Range& range) {
  return at >= range.begin && at + bytes <= range.begin + range.bytes;
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
    if (const char* wrong = state.note(accessor, access)) return wrong;
  }
  return nullptr;
}

uint32_t settled_blocks = 0;

const char* note_device(const std::byte* at, size_t bytes, Access access) {
  Allocation* const allocation = find_allocation(at, bytes);
  if (allocation == nullptr) return "an access beyond what was allocated on the device";
  const size_t offset = at - allocation->begin;
  const Accessor& accessor = running_thread().accessor;
  const bool early = running_thread().early;
  if (early && access != Access::kRead) return "a write while earlier kernels may still run";
  for (size_t i = offset; i < offset + bytes; ++i) {
    if (access != Access::kWrite && allocation->written[i] == 0) {
      return "a read of device memory that nobody has written";
    }
    if (early && allocation->history->at(i).written_after(settled_blocks)) {
      return "a read of what earlier kernels may still write";
    }
    if (access != Access::kRead) allocation->written[i] = 1;
    if (const char* wrong = allocation->history->at(i).note(accessor, access)) return wrong;
  }
  return nullptr;
}

// Where the program's constants are, which kernels have copies of.
std::vector<Range> read_only_parts() {
  std::vector<Range> parts;
  const auto add = [](dl_phdr_info* object, size_t, void* list) {
    for (int i = 0; i < object->dlpi_phnum; ++i) {
      const auto& part = object->dlpi_phdr[i];
      if (part.p_type != PT_LOAD || (part.p_flags & PF_W) != 0) continue;
      static_cast<std::vector<Range>*>(list)->push_back(
          {reinterpret_cast<const std::byte*>(object->dlpi_addr + part.p_vaddr), part.p_memsz});
    }
    return 1;  // the program comes first; not its libraries
  };
  dl_iterate_phdr(add, &parts);
  return parts;
}

const char* note_other(const std::byte* at, size_t bytes, Access access) {
  static const std::vector<Range> constants = read_only_parts();
  for (const Range& part : constants) {
    if (access == Access::kRead && lies_in(at, bytes, part)) return nullptr;
  }
  return "an access of memory that is not the device's";
}

void set_in_flight(const void* shared, size_t bytes, uint32_t block) {
  const RunningThread& thread = running_thread();
  const size_t offset = static_cast<const std::byte*>(shared) - thread.shared;
  for (size_t i = offset; i < offset + bytes; ++i) {
    thread.shared_history->at(i).set_in_flight(block);
  }
}

}  // namespace

void Users::note(const Accessor& by) {
  if (block_ < by.launch_from) first_block_ = by.block;
  const unsigned warp = 1u << warp_of(by.thread);
  const bool later = block_ != by.block || barriers(stamp_) != barriers(by.stamp);
  if (later || warp_of(thread_) != warp_of(by.thread)) {
    has_other_ = false;
  } else if (thread_ != by.thread) {
    has_other_ = true;
    other_stamp_ = stamp_;
  }
  warps_ = later ? warp : warps_ | warp;
  block_ = by.block;
  stamp_ = by.stamp;
  thread_ = by.thread;
}

const char* Users::race_with(const Accessor& by) const {
  if (block_ < by.launch_from) return nullptr;
  if (first_block_ != by.block || block_ != by.block) return "race with another block's access";
  if (barriers(stamp_) != barriers(by.stamp)) return nullptr;
  if ((warps_ & ~(1u << warp_of(by.thread))) != 0) return "race with another warp's access";
  const bool after_last = thread_ == by.thread || stamp_ < by.stamp;
  const bool after_other = !has_other_ || other_stamp_ < by.stamp;
  return after_last && after_other ? nullptr : "race with an access of the same warp";
}

const char* ByteState::race_with_writer(const Accessor& by) const {
  if (writer_block_ < by.launch_from) return nullptr;
  if (writer_block_ != by.block) return "race with another block's write";
  if (writer_ == by.thread) return nullptr;
  if (warp_of(writer_) == warp_of(by.thread)) {
    return writer_stamp_ < by.stamp ? nullptr : "race with a write of the same warp";
  }
  return barriers(writer_stamp_) < barriers(by.stamp) ? nullptr : "race with another warp's write";
}

const char* ByteState::note(const Accessor& by, Access access) {
  if (in_flight_in_ == by.block) return "an access of what a copy is still to write";
  const char* race = race_with_writer(by);
  if (race == nullptr && access != Access::kAtomic) race = atomics_.race_with(by);
  if (race == nullptr && access != Access::kRead) race = readers_.race_with(by);
  switch (access) {
    case Access::kRead:
      readers_.note(by);
      break;
    case Access::kWrite:
      writer_block_ = by.block;
      writer_stamp_ = by.stamp;
      writer_ = by.thread;
      break;
    case Access::kAtomic:
      atomics_.note(by);
      atomics_block_ = by.block;
      break;
  }
  return race;
}

void settle(uint32_t blocks) { settled_blocks = blocks; }

RunningThread& running_thread() {
  static RunningThread thread;
  return thread;
}

void note_access(const void* address, size_t bytes, Access access, const void* code) {
  const RunningThread& thread = running_thread();
  if (!thread.in_kernel || bytes == 0) return;
  const auto* const at = static_cast<const std::byte*>(address);
  if (lies_in(at, bytes, {thread.stack, thread.stack_bytes})) return;
  const char* wrong = nullptr;
  if (lies_in(at, bytes, {thread.shared, thread.shared_bytes})) {
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

void begin_flight(const void* shared, size_t bytes) {
  set_in_flight(shared, bytes, running_thread().accessor.block);
}

void end_flight(const void* shared, size_t bytes) { set_in_flight(shared, bytes, 0); }

}  // namespace cogserve::emulator
