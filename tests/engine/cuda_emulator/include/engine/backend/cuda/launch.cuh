// The emulator's way of starting a kernel: found before the backend's own header of this name.
// Every kernel begins before the last one ends.
#pragma once

#include <cuda_runtime.h>

namespace cogserve::cuda {

struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;
};

template <typename... Parameters, typename... Arguments>
void launch(const char* name, const LaunchShape& shape, cudaStream_t stream,
            void (*kernel)(Parameters...), const Arguments&... arguments) {
  ++emulator::counts().launches;
  stream->give([=] {
    const auto body = [&]() __attribute__((no_sanitize("thread"))) {
      const emulator::InKernel scope;
      emulator::begin_early();
      kernel(arguments...);  // copies of the host's arguments
      emulator::check_has_waited();
    };
    emulator::run_grid(shape.grid, shape.block, shape.shared_bytes, body, name);
  });
}

template <typename T>
T* shared_memory() {
  return reinterpret_cast<T*>(emulator::shared_memory());
}

}  // namespace cogserve::cuda
