// The one exception of the CUDA backend: a device fault while serving, named after the call.
#pragma once

#include <cuda_runtime.h>

#include <string>

#include "engine/base/check.hpp"

namespace cogserve::cuda {

// Most errors of the CUDA runtime stay: every later call returns them too.
class CudaError : public DeviceFault {
 public:
  using DeviceFault::DeviceFault;
};

// "cudaMalloc: cudaErrorMemoryAllocation (out of memory)"
std::string describe_error(const char* call, cudaError_t error);

// Throws CudaError unless `error` is cudaSuccess. `call` names the API call or the kernel.
inline void check_cuda(cudaError_t error, const char* call) {
  if (error != cudaSuccess) throw CudaError(describe_error(call, error));
}

}  // namespace cogserve::cuda
