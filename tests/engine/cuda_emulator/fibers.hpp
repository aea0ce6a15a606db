// Threads of a block as fibers of the calling thread: their stacks, and the way to and from them.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#define COGSERVE_EMULATOR_ASAN 1
#else
#define COGSERVE_EMULATOR_ASAN 0
#endif

namespace cogserve::emulator {

inline constexpr size_t kStackBytes = COGSERVE_EMULATOR_ASAN ? 512 << 10 : 128 << 10;

class Stack {
 public:
  // Throws Error if there is no memory.
  Stack();
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;
  ~Stack();
  void* base() const { return base_; }

 private:
  void* base_;
};

struct Fiber {
  // It will begin at `enter` on `stack`.
  void prepare(const Stack& stack, void (*enter)());

  ucontext_t context;  // where it starts; under AddressSanitizer also where it goes on
  jmp_buf resume;
  bool started = false;
};

// Switches between the scheduler's stack and those of fibers. By setjmp, because swapcontext makes
// two system calls each time; AddressSanitizer knows the latter. The file is compiled without
// checks of longjmp, which take a jump from stack to stack for an error.
class Switch {
 public:
  void to_fiber(Fiber* fiber, const Stack& stack);
  void to_scheduler(Fiber* fiber, bool for_good);
  // To be called first by each fiber.
  void fiber_started();

 private:
#if COGSERVE_EMULATOR_ASAN
  ucontext_t scheduler_;
  const void* base_ = nullptr;
  size_t size_ = 0;
#else
  jmp_buf scheduler_;
#endif
};

}  // namespace cogserve::emulator
