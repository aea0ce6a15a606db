// `cogserve serve` on a device that breaks:
//   serve_with_fault lost|hang SEQUENCES DRAWS [serve's options]
//
// After DRAWS draws of tokens for so many sequences at once the device is lost, or hangs for good.
// All else is the CPU's.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string_view>
#include <vector>

#include "engine/backend/cpu/cpu_backend.hpp"
#include "engine/backend/device_traits.hpp"
#include "engine/base/check.hpp"
#include "server/serve.hpp"
#include "tests/engine/forwarding_backend.hpp"

namespace cogserve {
namespace {

bool device_hangs = false;
size_t sequences_at_once = 0;
int good_draws = 0;

class BreakingBackend : public ForwardingBackend {
 public:
  explicit BreakingBackend(int threads)
      : ForwardingBackend(std::make_unique<CpuBackend>(threads)) {}

 private:
  void before_sample(std::span<const SampleRow> rows) override {
    if (rows.size() < sequences_at_once || ++draws_ <= good_draws) return;
    if (!device_hangs) throw DeviceFault("the device is lost");
    std::fputs("test device.hangs for=good\n", stderr);
    while (true) pause();
  }

  int draws_ = 0;
};

}  // namespace

// In the place of engine/backend/backend.cpp, which the linker then leaves out.
absl::StatusOr<std::unique_ptr<Backend>> make_backend(std::string_view /*device*/, int threads,
                                                      bool /*bf16_products*/) {
  return std::make_unique<BreakingBackend>(threads);
}

absl::StatusOr<DeviceTraits> device_traits(std::string_view /*device*/) {
  return DeviceTraits{.weight_bytes = cpu::weight_bytes,
                      .vector_bytes = cpu::vector_bytes,
                      .default_kv_bytes = int64_t{64} << 20};
}

}  // namespace cogserve

int main(int argc, char** argv) {
  const std::string_view fault = argc > 1 ? argv[1] : "";
  if (argc < 4 || (fault != "lost" && fault != "hang")) {
    std::fprintf(stderr, "usage: %s lost|hang SEQUENCES DRAWS [serve's options]\n", argv[0]);
    return cogserve::kExitUsage;
  }
  cogserve::device_hangs = fault == "hang";
  cogserve::sequences_at_once = std::strtoul(argv[2], nullptr, 10);
  cogserve::good_draws = std::atoi(argv[3]);
  return cogserve::run_serve({argv + 4, argv + argc});
}
