#include "tests/engine/test_backend.hpp"

namespace cogserve {

absl::StatusOr<std::unique_ptr<Backend>> make_test_backend(std::string_view device, int threads) {
  if (device == kBF16ProductsDevice) return make_backend("cpu", threads, true);
  return make_backend(device, threads);
}

}  // namespace cogserve
