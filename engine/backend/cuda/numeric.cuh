// 16-bit floats in kernels: conversions, and loads and stores of eight elements in 16 bytes.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "engine/backend/cuda/ptx.cuh"

namespace cogserve::cuda {

inline constexpr int kPack = 8;  // elements that a thread takes at a time
inline constexpr unsigned kAllLanes = 0xffffffffu;

__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ float widen(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ __forceinline__ float widen(__half value) { return __half2float(value); }

template <typename T>
__device__ __forceinline__ T narrow(float value) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(value);
  } else if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(value);
  } else {
    return value;
  }
}

// The nearest value that T has.
template <typename T>
__device__ __forceinline__ float round_to(float value) {
  return widen(narrow<T>(value));
}

template <typename T>
__device__ __forceinline__ const T* at_byte(const T* array, int64_t offset) {
  return reinterpret_cast<const T*>(reinterpret_cast<const char*>(array) + offset);
}

// Two elements in a register, `low` in the lower half.
template <typename T>
__device__ __forceinline__ uint32_t pack_pair(float low, float high) {
  uint32_t word;
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    memcpy(&word, &pair, sizeof word);
  } else {
    const __half2 pair = __floats2half2_rn(low, high);
    memcpy(&word, &pair, sizeof word);
  }
  return word;
}

template <typename T>
__device__ __forceinline__ void unpack_pair(uint32_t word, float& low, float& high) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    low = __uint_as_float(word << 16);
    high = __uint_as_float(word & 0xffff0000u);
  } else {
    T pair[2];
    memcpy(pair, &word, sizeof word);
    low = widen(pair[0]);
    high = widen(pair[1]);
  }
}

template <typename T>
__device__ __forceinline__ void unpack(const uint4& words, float (&values)[kPack]) {
  unpack_pair<T>(words.x, values[0], values[1]);
  unpack_pair<T>(words.y, values[2], values[3]);
  unpack_pair<T>(words.z, values[4], values[5]);
  unpack_pair<T>(words.w, values[6], values[7]);
}

// Elements [0, count) of `from`, the rest 0. With kAligned, count is 0 or 8 and the address a
// multiple of 16 bytes.
template <bool kAligned, typename T>
__device__ __forceinline__ void load_pack(const T* from, int64_t count, float (&values)[kPack]) {
  if constexpr (kAligned) {
    if (count <= 0) {
#pragma unroll
      for (int i = 0; i < kPack; ++i) values[i] = 0.0f;
    } else if constexpr (std::is_same_v<T, float>) {
      const float4 low = reinterpret_cast<const float4*>(from)[0];
      const float4 high = reinterpret_cast<const float4*>(from)[1];
      values[0] = low.x, values[1] = low.y, values[2] = low.z, values[3] = low.w;
      values[4] = high.x, values[5] = high.y, values[6] = high.z, values[7] = high.w;
    } else {
      // Passed on by reference they would be four loads at times.
      const uint4 words = *reinterpret_cast<const uint4*>(from);
      unpack<T>(words, values);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kPack; ++i) values[i] = i < count ? widen(from[i]) : 0.0f;
  }
}

template <bool kAligned, typename T>
__device__ __forceinline__ void store_pack(const float (&values)[kPack], int64_t count, T* to) {
  if constexpr (kAligned) {
    if (count <= 0) return;
    ptx::store_16(to, {pack_pair<T>(values[0], values[1]), pack_pair<T>(values[2], values[3]),
                       pack_pair<T>(values[4], values[5]), pack_pair<T>(values[6], values[7])});
  } else {
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      if (i < count) to[i] = narrow<T>(values[i]);
    }
  }
}

// x sigmoid(x); sigmoid(x) = 1 / (1 + e^-x) = e^x / (1 + e^x): whichever does not overflow.
__device__ __forceinline__ float silu(float x) {
  const float e = expf(-fabsf(x));
  return x * ((x < 0.0f ? e : 1.0f) / (1.0f + e));
}

// The sum over the lanes of a warp, the same in all of them: one fixed tree.
__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) value += __shfl_xor_sync(kAllLanes, value, mask);
  return value;
}

}  // namespace cogserve::cuda
