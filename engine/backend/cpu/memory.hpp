// Host memory for weights, activations and scratch.
#pragma once

#include <cstddef>

namespace cogserve::cpu {

// At least `bytes` bytes on a cache line of their own, of undefined content; large ones on huge
// pages where the system gives them, for a weight matrix spans thousands of small ones. Null if
// there is not enough memory. Given back by std::free.
void* allocate_memory(size_t bytes);

}  // namespace cogserve::cpu
