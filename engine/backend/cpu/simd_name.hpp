// What the kernels run on, for people.
#pragma once

#include <string>

namespace cogserve::cpu {

// "avx2", "avx3", "avx3_dl", "neon", "emu128" or "scalar": the instruction set chosen on this
// machine.
std::string simd_name();

}  // namespace cogserve::cpu
