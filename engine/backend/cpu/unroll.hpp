// Loops over an array of vectors must be unrolled whole, or the array lives in memory.
#pragma once

#if defined(__clang__)
#define COGSERVE_UNROLL_WHOLE _Pragma("clang loop unroll(full)")
#else
#define COGSERVE_UNROLL_WHOLE _Pragma("GCC unroll 16")
#endif
