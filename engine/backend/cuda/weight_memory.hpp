// How many bytes of device memory weights take. Plain arithmetic: no CUDA here, so that plans can
// be made without it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/base/host_weight.hpp"

namespace cogserve::cuda {

// Activations and the dense weights are of 16 bits.
inline constexpr size_t kActivationBytes = 2;

// The arrays of `form` are not looked at.
size_t weight_bytes(const HostWeight& form);

// A vector is kept twice: as f32, and behind that, from here on, in the activations' dtype.
size_t second_copy_offset(int64_t count);
size_t vector_bytes(int64_t count);

}  // namespace cogserve::cuda
