// What the kernels run on, for people.
#pragma once

#include <string>

namespace cogserve::cpu {

// "avx2", "avx3", "neon", "emu128" or "scalar": the instruction set chosen on this machine.
std::string simd_name();

}  // namespace cogserve::cpu
