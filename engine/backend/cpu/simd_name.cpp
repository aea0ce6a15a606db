#include "engine/backend/cpu/simd_name.hpp"

#include <algorithm>
#include <cctype>

#define HWY_WANT_AVX3_DL
#include "engine/backend/cpu/simd_targets.hpp"
#include "hwy/targets.h"

namespace cogserve::cpu {

std::string simd_name() {
  // Better instruction sets have lower bits.
  const int64_t targets = hwy::SupportedTargets() & HWY_TARGETS;
  std::string name = hwy::TargetName(targets & -targets);
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return name;
}

}  // namespace cogserve::cpu
