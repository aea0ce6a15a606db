// What this build has been compiled for, as far as the current device is concerned.
#pragma once

#include <cuda_runtime.h>

namespace cogserve::cuda {

// cudaSuccess if there is code for the device, its own or what the driver can compile.
cudaError_t find_device_code();

// Whether code, as cudaFuncAttributes describes it, may begin while the kernels before it still
// run: where the device can do it, sm_90 and later, and the code knows how to wait (see
// ptx::begin_kernel), which sm_80's does not when the driver compiles it for a later device.
constexpr bool can_begin_early(int ptx_version, int binary_version) {
  constexpr int kLeast = 90;
  return ptx_version >= kLeast && binary_version >= kLeast;
}

// Of this build's kernels on the current device.
bool kernels_may_begin_early();

}  // namespace cogserve::cuda
