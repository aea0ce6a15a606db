// Starting kernels. Every launch of the backend goes through here: it is ordered on the backend's
// stream, takes all its shared memory at launch time, and an error carries the kernel's name. Where
// kernels may begin early, the device may bring it in before the last one ends. So each begins with
// ptx::begin_kernel, or has its two parts apart.
#pragma once

#include <cuda_runtime.h>

#include "engine/backend/cuda/device_code.hpp"
#include "engine/backend/cuda/error.hpp"

namespace cogserve::cuda {

struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;
};

// What a kernel may use without asking for more.
inline constexpr size_t kDefaultSharedBytes = 48 << 10;

template <typename... Parameters, typename... Arguments>
void launch(const char* name, const LaunchShape& shape, cudaStream_t stream,
            void (*kernel)(Parameters...), const Arguments&... arguments) {
  if (shape.shared_bytes > kDefaultSharedBytes) {
    check_cuda(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                    cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(shape.shared_bytes)),
               name);
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &early;
  config.numAttrs = kernels_may_begin_early() ? 1 : 0;
  check_cuda(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...), name);
}

extern __shared__ uint4 raw_shared_memory[];

// The block's shared memory, aligned to 16 bytes.
template <typename T>
__device__ __forceinline__ T* shared_memory() {
  return reinterpret_cast<T*>(raw_shared_memory);
}

}  // namespace cogserve::cuda
