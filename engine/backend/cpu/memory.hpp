// Host memory for weights, activations and scratch.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cogserve::cpu {

// At least `bytes` bytes on a cache line of their own, of undefined content; large ones on huge
// pages where the system gives them, for a weight matrix spans thousands of small ones. Null if
// there is not enough memory. Given back by std::free.
void* allocate_memory(size_t bytes);

// Bytes that can be allocated without pushing anybody into swap: what the system says is available,
// or what this process's control group leaves, if that is less.
int64_t available_memory();
// What the machine has.
int64_t total_memory();

}  // namespace cogserve::cpu
