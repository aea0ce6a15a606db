#include "engine/backend/cuda/device_code.hpp"

namespace cogserve::cuda {
namespace {

// Every file is compiled for the same devices: one kernel speaks for all.
__global__ void probe_kernel() {}

cudaError_t attributes_of_probe(cudaFuncAttributes* attributes) {
  return cudaFuncGetAttributes(attributes, reinterpret_cast<const void*>(probe_kernel));
}

}  // namespace

cudaError_t find_device_code() {
  cudaFuncAttributes attributes;
  return attributes_of_probe(&attributes);
}

bool kernels_may_begin_early() {
  // Asked for at every launch, and a thread's device seldom changes.
  thread_local int known_device = -1;
  thread_local bool may = false;
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return false;
  if (device == known_device) return may;
  cudaFuncAttributes attributes;
  if (attributes_of_probe(&attributes) != cudaSuccess) return false;
  known_device = device;
  return may = can_begin_early(attributes.ptxVersion, attributes.binaryVersion);
}

}  // namespace cogserve::cuda
