#include "engine/backend/backend.hpp"

#include <memory>
#include <string>

#include "engine/backend/cpu/cpu_backend.hpp"
#include "engine/base/error.hpp"

namespace cogserve {

absl::StatusOr<std::unique_ptr<Backend>> make_backend(std::string_view device, int threads) {
  if (device == "cpu") return std::make_unique<CpuBackend>(threads);
  return invalid_argument("UNKNOWN_DEVICE", "device",
                          "device is \"cpu\" in this build, got \"" + std::string(device) + "\"");
}

}  // namespace cogserve
