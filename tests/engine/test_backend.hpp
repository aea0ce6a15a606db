// What a test program was told on its command line, and the backend it runs on.
//
//   --device cpu | cpu:bf16 | cuda:<n>   (default: cpu; cpu:bf16 has bf16 products)
//   --longest N   leaves out golden cases of more than N tokens (default: none)
//
// A program that is linked with cuda_emulator/test_backend.cpp has the emulator for its CUDA
// device.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/backend/backend.hpp"

namespace cogserve {

struct TestOptions {
  std::string device = "cpu";
  int longest = 0;  // 0 = no limit
};
const TestOptions& test_options();

inline constexpr std::string_view kBF16ProductsDevice = "cpu:bf16";

// As make_backend, and that device.
absl::StatusOr<std::unique_ptr<Backend>> make_test_backend(std::string_view device, int threads);

}  // namespace cogserve
