#include "tests/engine/cuda_emulator/emulator.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <new>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "tests/engine/cuda_emulator/accesses.hpp"
#include "tests/engine/cuda_emulator/fibers.hpp"

extern "C" const char __executable_start;
extern "C" const char etext;

namespace cogserve::emulator {
namespace {

constexpr int kWarpSize = 32;
constexpr uint32_t kMostBarriers = 0xffff;  // in each half of a stamp
constexpr std::align_val_t kSharedAlignment{128};

struct FreeShared {
  void operator()(std::byte* memory) const { ::operator delete(memory, kSharedAlignment); }
};

enum class State { kReady, kAtWarp, kAtBlock, kDone };

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
  size_t from_bytes;
};

struct Thread {
  Fiber fiber;
  Index index;
  int number = 0;
  bool in_kernel = false;
  bool early = false;
  State state = State::kReady;
  const char* what = "";
  int line = 0;
  std::vector<Copy> open;
  std::vector<std::vector<Copy>> groups;  // the oldest first
};

struct Warp {
  int arrived = 0;
  int parity = 0;
  uint32_t syncs = 0;  // by __syncwarp since the block's last barrier
  const char* what = "";
  int line = 0;
  alignas(64) std::byte slots[2][kWarpSize * kSlotBytes];
};

// Kept from block to block.
std::vector<std::unique_ptr<Stack>>& stacks() {
  static std::vector<std::unique_ptr<Stack>> kept;
  return kept;
}

Order current_order = Order::kAscending;
uint32_t blocks_so_far = 0;

// Of the block that runs; its bytes' states say which block they are of.
ByteHistory& shared_history(size_t bytes) {
  static size_t room = 0;
  static std::unique_ptr<ByteHistory> history;
  if (history == nullptr || bytes > room) {
    history = std::make_unique<ByteHistory>(bytes);
    room = bytes;
  }
  return *history;
}

class Block {
 public:
  Block(Index grid, Index shape, Index index, size_t shared_bytes,
        const std::function<void()>& body, const char* name, uint32_t launch_from)
      : grid_(grid),
        shape_(shape),
        index_(index),
        shared_bytes_(shared_bytes),
        // Without slack, so that AddressSanitizer knows its end.
        shared_(static_cast<std::byte*>(::operator new(shared_bytes, kSharedAlignment))),
        body_(body),
        name_(name),
        threads_(size_t{shape.x} * shape.y * shape.z),
        warps_(threads_.size() / kWarpSize) {
    if (threads_.empty() || threads_.size() % kWarpSize != 0 || threads_.size() > 1024) {
      throw Error("a block has whole warps and at most 1024 threads");
    }
    std::memset(shared_.get(), 0xff, shared_bytes);
    access_.accessor.block = ++blocks_so_far;
    access_.accessor.launch_from = launch_from;
    access_.kernel = name;
    access_.stack_bytes = kStackBytes;
    access_.shared = shared_.get();
    access_.shared_bytes = shared_bytes;
    access_.shared_history = &shared_history(shared_bytes);
    while (stacks().size() < threads_.size()) stacks().push_back(std::make_unique<Stack>());
    for (size_t i = 0; i < threads_.size(); ++i) {
      Thread& thread = threads_[i];
      const unsigned n = static_cast<unsigned>(i);
      thread.number = static_cast<int>(i);
      thread.index = {n % shape.x, n / shape.x % shape.y, n / shape.x / shape.y};
      thread.fiber.prepare(*stacks()[i], &Block::enter);
    }
  }

  void run(std::mt19937& random) {
    running_ = this;
    std::vector<int> order(threads_.size());
    std::iota(order.begin(), order.end(), 0);
    if (current_order == Order::kDescending) std::reverse(order.begin(), order.end());
    bool progress = true;
    while (progress && error_.empty()) {
      if (current_order == Order::kShuffled) std::shuffle(order.begin(), order.end(), random);
      progress = false;
      for (const int i : order) {
        if (threads_[i].state != State::kReady) continue;
        progress = true;
        thread_ = &threads_[i];
        access_.accessor.thread = static_cast<uint16_t>(i);
        access_.stack = static_cast<const std::byte*>(stacks()[i]->base());
        access_.in_kernel = thread_->in_kernel;
        access_.early = thread_->early;
        access_.accessor.stamp = stamp();
        running_thread() = access_;
        switch_.to_fiber(&thread_->fiber, *stacks()[i]);
        running_thread().in_kernel = false;
        if (!error_.empty()) break;
      }
    }
    running_ = nullptr;
    if (error_.empty()) report_those_left_waiting();
    if (!error_.empty()) throw Error(error_);
  }

  static Block& running() {
    if (running_ == nullptr) throw Error("outside a kernel");
    return *running_;
  }

  Thread& thread() { return *thread_; }
  Warp& warp() { return warps_[thread_->number / kWarpSize]; }
  Index grid() const { return grid_; }
  Index shape() const { return shape_; }
  Index index() const { return index_; }
  std::byte* shared() { return shared_.get(); }
  size_t shared_bytes() const { return shared_bytes_; }

  // A fiber that is given up never destroys what is on its stack, so texts are made in note(),
  // whose temporaries are gone when it returns.
  void fail(const char* what) {
    note(what);
    abandon();
  }

  void fail_access(const char* what, const void* address, size_t bytes, const void* code) {
    running_thread().in_kernel = false;  // describing it is no part of the kernel
    describe_access(what, address, bytes, code);
    abandon();
  }

  void set_in_kernel(bool in_kernel) {
    thread_->in_kernel = in_kernel;
    running_thread().in_kernel = in_kernel;
  }

  void set_early(bool early) {
    thread_->early = early;
    running_thread().early = early;
  }

  void wait_for_block(int line) {
    if (block_arrived_ > 0 && line != block_line_) {
      note("block barrier at line " + std::to_string(line) + " while others wait at line " +
           std::to_string(block_line_));
      abandon();
    }
    block_line_ = line;
    if (++block_arrived_ == static_cast<int>(threads_.size())) {
      block_arrived_ = 0;
      if (++barriers_ > kMostBarriers) fail("more barriers than a stamp counts");
      for (Warp& each : warps_) each.syncs = 0;
      running_thread().accessor.stamp = stamp();
      release(State::kAtBlock, 0, threads_.size());
      return;
    }
    wait(State::kAtBlock, "block barrier", line);
  }

  // `orders`: what the lanes did to memory before comes before what they do afterwards.
  void wait_for_warp(const char* what, int line, bool orders) {
    Warp& group = warp();
    if (group.arrived > 0 && (line != group.line || std::strcmp(what, group.what) != 0)) {
      note(std::string(what) + " at line " + std::to_string(line) + " while other lanes are in " +
           group.what + " at line " + std::to_string(group.line));
      abandon();
    }
    group.what = what;
    group.line = line;
    const size_t first = thread_->number / kWarpSize * kWarpSize;
    if (++group.arrived == kWarpSize) {
      group.arrived = 0;
      group.parity ^= 1;
      if (orders && ++group.syncs > kMostBarriers) fail("more barriers than a stamp counts");
      running_thread().accessor.stamp = stamp();
      release(State::kAtWarp, first, first + kWarpSize);
      return;
    }
    wait(State::kAtWarp, what, line);
  }

 private:
  Stamp stamp() { return barriers_ << 16 | warp().syncs; }

  void note(const std::string& what) {
    error_ = std::string(name_) + ": thread " + std::to_string(thread_->number) + " of block (" +
             std::to_string(index_.x) + ", " + std::to_string(index_.y) + ", " +
             std::to_string(index_.z) + "): " + what;
  }

  void describe_access(const char* what, const void* address, size_t bytes, const void* code) {
    const auto* const at = static_cast<const std::byte*>(address);
    char text[160];
    const bool is_shared = at >= shared_.get() && at < shared_.get() + shared_bytes_;
    if (is_shared) {
      std::snprintf(text, sizeof text, " (shared memory + %zu, %zu bytes", at - shared_.get(),
                    bytes);
    } else {
      std::snprintf(text, sizeof text, " (%p, %zu bytes", address, bytes);
    }
    std::string where(text);
    if (code != nullptr && code < static_cast<const void*>(&etext)) {
      const auto offset = static_cast<const char*>(code) - &__executable_start;
      std::snprintf(text, sizeof text, "; addr2line -Cfie PROGRAM %#tx", offset - 1);
      where += text;
    }
    note(what + where + ")");
  }

  void abandon() { switch_.to_scheduler(&thread_->fiber, true); }

  static void enter() {
    Block& block = *running_;
    block.switch_.fiber_started();
    block.body_();
    block.thread_->state = State::kDone;
    block.switch_.to_scheduler(&block.thread_->fiber, true);
  }

  void wait(State state, const char* what, int line) {
    Thread& mine = *thread_;
    mine.state = state;
    mine.what = what;
    mine.line = line;
    switch_.to_scheduler(&mine.fiber, false);
  }

  void release(State from, size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) {
      if (threads_[i].state == from) threads_[i].state = State::kReady;
    }
  }

  void report_those_left_waiting() {
    for (const Thread& thread : threads_) {
      if (thread.state == State::kDone) continue;
      error_ = "thread " + std::to_string(thread.number) + " waits for ever in " + thread.what +
               " at line " + std::to_string(thread.line);
      return;
    }
  }

  static Block* running_;

  Index grid_;
  Index shape_;
  Index index_;
  size_t shared_bytes_;
  std::unique_ptr<std::byte, FreeShared> shared_;
  const std::function<void()>& body_;
  const char* name_;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  Switch switch_;
  Thread* thread_ = nullptr;
  int block_arrived_ = 0;
  int block_line_ = 0;
  uint32_t barriers_ = 0;
  RunningThread access_;
  std::string error_;
};

Block* Block::running_ = nullptr;

void perform(const Copy& copy) {
  end_flight(copy.to, copy.bytes);
  note_access(copy.from, copy.from_bytes, Access::kRead);
  note_access(copy.to, copy.bytes, Access::kWrite);
  std::memcpy(copy.to, copy.from, copy.from_bytes);
  std::memset(static_cast<std::byte*>(copy.to) + copy.from_bytes, 0, copy.bytes - copy.from_bytes);
}

}  // namespace

void set_order(Order order) { current_order = order; }

void run_grid(Index grid, Index block, size_t shared_bytes, const std::function<void()>& body,
              const char* name) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) throw Error("an empty grid");
  if (grid.y > 65535 || grid.z > 65535) throw Error("a grid's y and z go to 65535");
  constexpr size_t kMostShared = 99 << 10;  // of sm_86, 89 and 120; others have more
  if (shared_bytes > kMostShared) throw Error("a block has at most 99 KB of shared memory");
  std::mt19937 random(1);
  const uint32_t launch_from = blocks_so_far + 1;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        Block(grid, block, {x, y, z}, shared_bytes, body, name, launch_from).run(random);
      }
    }
  }
}

Index thread_index() { return Block::running().thread().index; }
Index block_index() { return Block::running().index(); }
Index block_shape() { return Block::running().shape(); }
Index grid_shape() { return Block::running().grid(); }
int lane() { return Block::running().thread().number % kWarpSize; }

std::byte* shared_memory() { return Block::running().shared(); }

InKernel::InKernel() { Block::running().set_in_kernel(true); }

InKernel::~InKernel() { Block::running().set_in_kernel(false); }

void fail(const char* what) { Block::running().fail(what); }

void fail_access(const char* what, const void* address, size_t bytes, const void* code) {
  Block::running().fail_access(what, address, bytes, code);
}

void check_shared(const void* address, size_t bytes, size_t alignment) {
  Block& block = Block::running();
  const auto* at = static_cast<const std::byte*>(address);
  if (at < block.shared() || at + bytes > block.shared() + block.shared_bytes()) {
    block.fail("an address outside shared memory");
  }
  if (reinterpret_cast<uintptr_t>(at) % alignment != 0) block.fail("a misaligned address");
}

void begin_early() { Block::running().set_early(true); }

void wait_for_earlier_kernels() { Block::running().set_early(false); }

void check_has_waited() {
  if (running_thread().early) fail("an end without a wait for earlier kernels");
}

uint32_t count_block() { return ++blocks_so_far; }

void settle_all_blocks() { settle(blocks_so_far); }

void sync_block(int line) { Block::running().wait_for_block(line); }

void sync_warp(const char* what, int line, bool orders) {
  Block::running().wait_for_warp(what, line, orders);
}

Slots exchange_slots() {
  Warp& warp = Block::running().warp();
  std::byte* const all = warp.slots[warp.parity];
  return {all + lane() * kSlotBytes, all};
}

void start_copy(void* to, const void* from, size_t bytes, size_t from_bytes) {
  check_shared(to, bytes, bytes);
  if (reinterpret_cast<uintptr_t>(from) % bytes != 0) fail("a misaligned source of a copy");
  static const char kCopies[2] = {};  // the places of all copies
  note_access(from, from_bytes, Access::kRead, &kCopies[0]);
  note_access(to, bytes, Access::kWrite, &kCopies[1]);
  begin_flight(to, bytes);
  Block::running().thread().open.push_back({to, from, bytes, from_bytes});
}

void commit_copies() {
  Thread& thread = Block::running().thread();
  thread.groups.push_back(std::move(thread.open));
  thread.open.clear();
}

void wait_copies(size_t pending) {
  Thread& thread = Block::running().thread();
  while (thread.groups.size() > pending) {
    for (const Copy& copy : thread.groups.front()) perform(copy);
    thread.groups.erase(thread.groups.begin());
  }
}

}  // namespace cogserve::emulator
