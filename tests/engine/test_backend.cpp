#include "tests/engine/test_backend.hpp"

namespace cogserve {

absl::StatusOr<std::unique_ptr<Backend>> make_test_backend(std::string_view device, int threads) {
  return make_backend(device, threads);
}

}  // namespace cogserve
