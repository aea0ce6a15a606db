// The CPU backend, and the emulator in the place of a GPU.
#include "tests/engine/test_backend.hpp"

#include "engine/backend/cpu/cpu_backend.hpp"
#include "engine/backend/cuda/cuda_backend.hpp"

namespace cogserve {

absl::StatusOr<std::unique_ptr<Backend>> make_test_backend(std::string_view device, int threads) {
  if (device == "cpu") return std::make_unique<CpuBackend>(threads);
  return CudaBackend::create(device);
}

}  // namespace cogserve
