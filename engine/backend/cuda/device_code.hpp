// What this build has been compiled for, as far as the current device is concerned.
#pragma once

#include <cuda_runtime.h>

namespace cogserve::cuda {

// cudaSuccess if there is code for the device, its own or what the driver can compile.
cudaError_t find_device_code();

// Whether kernels can be brought to the device while those before still run: sm_90 and later, with
// code that knows how to wait (see ptx::begin_kernel). The same for as long as the process lives,
// as the device is.
bool kernels_may_begin_early();

}  // namespace cogserve::cuda
