#include "engine/backend/backend.hpp"

#include <memory>
#include <string>

#include "engine/backend/cpu/cpu_backend.hpp"
#include "engine/backend/cuda/own_memory.hpp"
#include "engine/backend/cuda/quantized_layout.hpp"
#include "engine/backend/cuda/weight_memory.hpp"
#include "engine/backend/device_traits.hpp"
#include "engine/base/error.hpp"
#ifdef COGSERVE_WITH_CUDA
#include "engine/backend/cuda/cuda_backend.hpp"
#endif

namespace cogserve {

absl::StatusOr<std::unique_ptr<Backend>> make_backend(std::string_view device, int threads,
                                                      bool bf16_products) {
  if (device == "cpu") {
    return std::make_unique<CpuBackend>(threads,
                                        bf16_products ? cpu::Products::kBF16 : cpu::Products::kF32);
  }
#ifdef COGSERVE_WITH_CUDA
  return CudaBackend::create(device);
#else
  return invalid_argument("UNKNOWN_DEVICE", "device",
                          "device is \"cpu\" in this build, got \"" + std::string(device) + "\"");
#endif
}

absl::StatusOr<DeviceTraits> device_traits(std::string_view device) {
  if (device == "cpu") {
    return DeviceTraits{.weight_bytes = cpu::weight_bytes,
                        .vector_bytes = cpu::vector_bytes,
                        .default_kv_bytes = int64_t{256} << 20};
  }
  if (device.starts_with("cuda:")) {
    return DeviceTraits{.activation = DType::kBF16,
                        .kv = DType::kBF16,
                        .context_bytes = cuda::kContextBytes,
                        .late_context_bytes = cuda::kLateContextBytes,
                        .own_bytes = cuda::kOwnBytes,
                        .own_bytes_per_token_id = cuda::kChangedBytesPerTokenId,
                        .granularity = cuda::kGranularity,
                        .group_multiple = cuda::kGroupMultiple,
                        .weight_bytes = cuda::weight_bytes,
                        .vector_bytes = cuda::vector_bytes};
  }
  return invalid_argument("UNKNOWN_DEVICE", "device",
                          "device is \"cpu\" or \"cuda:<n>\", got \"" + std::string(device) + "\"");
}

}  // namespace cogserve
