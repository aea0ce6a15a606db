#include "engine/backend/backend.hpp"

#include <memory>
#include <string>

#include "engine/backend/cpu/cpu_backend.hpp"
#include "engine/base/error.hpp"
#ifdef COGSERVE_WITH_CUDA
#include "engine/backend/cuda/cuda_backend.hpp"
#endif

namespace cogserve {

absl::StatusOr<std::unique_ptr<Backend>> make_backend(std::string_view device, int threads) {
  if (device == "cpu") return std::make_unique<CpuBackend>(threads);
#ifdef COGSERVE_WITH_CUDA
  return CudaBackend::create(device);
#else
  return invalid_argument("UNKNOWN_DEVICE", "device",
                          "device is \"cpu\" in this build, got \"" + std::string(device) + "\"");
#endif
}

}  // namespace cogserve
