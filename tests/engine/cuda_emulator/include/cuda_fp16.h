// The emulator's half: the functions that the kernels use.
#pragma once

#include "engine/base/dtype.hpp"

struct __half {
  uint16_t bits;
};
struct alignas(4) __half2 {
  __half x, y;
};

inline float __half2float(__half value) {
  return cogserve::to_float(cogserve::Float16{value.bits});
}

inline __half __ushort_as_half(uint16_t bits) { return {bits}; }
inline __half __float2half_rn(float value) { return {cogserve::to_float16(value).bits}; }
inline __half2 __floats2half2_rn(float low, float high) {
  return {__float2half_rn(low), __float2half_rn(high)};
}
inline __half2 __hsub2(__half2 a, __half2 b) {
  return __floats2half2_rn(__half2float(a.x) - __half2float(b.x),
                           __half2float(a.y) - __half2float(b.y));
}
