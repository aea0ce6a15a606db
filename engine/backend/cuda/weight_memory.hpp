// How many bytes of device memory weights take, and how they share it. Plain arithmetic: no CUDA
// here, so that plans can be made without it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/base/buffer.hpp"
#include "engine/base/host_weight.hpp"

namespace cogserve::cuda {

// Activations and the dense weights are of 16 bits.
inline constexpr size_t kActivationBytes = 2;

// Of which every weight begins at a multiple, as cudaMalloc's memory does.
inline constexpr size_t kWeightAlignment = 256;

constexpr size_t align_weight(size_t bytes) {
  return (bytes + kWeightAlignment - 1) / kWeightAlignment * kWeightAlignment;
}

// Multiples of the alignment. The arrays of `form` are not looked at.
size_t weight_bytes(const HostWeight& form);

// A vector is kept twice: as f32, and behind that, from here on, in the activations' dtype.
size_t second_copy_offset(int64_t count);
size_t vector_bytes(int64_t count);

// One allocation that weights are carved out of, since each of hundreds of allocations would leave
// part of its last page unused. What is taken comes back with the whole.
class WeightArena {
 public:
  // How large the allocation is to be for weights of so many bytes in all.
  static size_t bytes_for(size_t weights);

  // Once, before anything is taken.
  void open(Buffer memory);
  // Null if there is not so much left.
  void* take(size_t bytes);

 private:
  Buffer memory_;
  size_t used_ = 0;
};

}  // namespace cogserve::cuda
