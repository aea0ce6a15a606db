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
  // Code for sm_80 that the driver has compiled for a later device does not wait.
  static const bool may = [] {
    constexpr int kLeast = 90;
    cudaFuncAttributes attributes;
    return attributes_of_probe(&attributes) == cudaSuccess && attributes.ptxVersion >= kLeast &&
           attributes.binaryVersion >= kLeast;
  }();
  return may;
}

}  // namespace cogserve::cuda
