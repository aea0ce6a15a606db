#include "tests/engine/cuda_emulator/fibers.hpp"

#include <sys/mman.h>

#include "tests/engine/cuda_emulator/emulator.hpp"

#if COGSERVE_EMULATOR_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

namespace cogserve::emulator {

Stack::Stack()
    : base_(
          mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {
  if (base_ == MAP_FAILED) throw Error("no memory for a stack");
}

Stack::~Stack() { munmap(base_, kStackBytes); }

void Fiber::prepare(const Stack& stack, void (*enter)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack.base();
  context.uc_stack.ss_size = kStackBytes;
  context.uc_link = nullptr;
  makecontext(&context, enter, 0);
}

#if COGSERVE_EMULATOR_ASAN

void Switch::to_fiber(Fiber* fiber, const Stack& stack) {
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, stack.base(), kStackBytes);
  swapcontext(&scheduler_, &fiber->context);
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
}

void Switch::to_scheduler(Fiber* fiber, bool for_good) {
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(for_good ? nullptr : &fake, base_, size_);
  swapcontext(&fiber->context, &scheduler_);
  __sanitizer_finish_switch_fiber(fake, &base_, &size_);
}

void Switch::fiber_started() { __sanitizer_finish_switch_fiber(nullptr, &base_, &size_); }

#else

void Switch::to_fiber(Fiber* fiber, const Stack& /*stack*/) {
  if (_setjmp(scheduler_) != 0) return;
  if (fiber->started) _longjmp(fiber->resume, 1);
  fiber->started = true;
  setcontext(&fiber->context);
}

void Switch::to_scheduler(Fiber* fiber, bool /*for_good*/) {
  if (_setjmp(fiber->resume) == 0) _longjmp(scheduler_, 1);
}

void Switch::fiber_started() {}

#endif

}  // namespace cogserve::emulator
