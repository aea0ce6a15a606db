// The emulator's matrix instructions and asynchronous copies: found before the backend's own
// header of this name. Layouts as the PTX manual gives them.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

namespace cogserve::cuda::ptx {

COGSERVE_EMULATED inline float fragment_value(__nv_bfloat16 value) {
  return __bfloat162float(value);
}
COGSERVE_EMULATED inline float fragment_value(__half value) { return __half2float(value); }

template <typename T>
COGSERVE_EMULATED float fragment_half(uint32_t word, int half) {
  const auto bits = static_cast<uint16_t>(word >> (16 * half));
  return fragment_value(T{bits});
}

template <typename T>
COGSERVE_EMULATED void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                    int line = __builtin_LINE()) {
  struct Fragments {
    uint32_t a[4];
    uint32_t b[2];
  };
  const auto all = emulator::exchange(Fragments{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}},
                                      "a matrix product", line);
  const int lane = emulator::lane();
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + 8 * (i / 2);
    const int col = lane % 4 * 2 + i % 2;
    float sum = d[i];
    for (int k = 0; k < 16; ++k) {
      const Fragments& left = all[row % 8 * 4 + k % 8 / 2];
      const Fragments& right = all[col * 4 + k % 8 / 2];
      sum += fragment_half<T>(left.a[row / 8 + 2 * (k / 8)], k % 2) *
             fragment_half<T>(right.b[k / 8], k % 2);
    }
    d[i] = sum;
  }
}

template <bool kTransposed>
COGSERVE_EMULATED void load_matrices(uint32_t (&r)[4], const void* row, int line) {
  emulator::check_shared(row, 16, 16);
  static const char kPlace = 0;
  emulator::note_access(row, 16, emulator::Access::kRead, &kPlace);
  const auto rows = emulator::exchange(static_cast<const uint16_t*>(row), "a matrix load", line);
  const int lane = emulator::lane();
  for (int i = 0; i < 4; ++i) {
    uint32_t halves[2];
    for (int half = 0; half < 2; ++half) {
      const int inner = lane % 4 * 2 + half;
      halves[half] = kTransposed ? rows[8 * i + inner][lane / 4] : rows[8 * i + lane / 4][inner];
    }
    r[i] = halves[0] | halves[1] << 16;
  }
  // The load is done for the whole warp before any lane goes on to overwrite what was read.
  emulator::sync_warp("a matrix load", line);
}

inline void ldmatrix_x4(uint32_t (&r)[4], const void* row, int line = __builtin_LINE()) {
  load_matrices<false>(r, row, line);
}
inline void ldmatrix_x4_transposed(uint32_t (&r)[4], const void* row, int line = __builtin_LINE()) {
  load_matrices<true>(r, row, line);
}

COGSERVE_EMULATED inline void store_16(void* global, uint4 words) {
  if (reinterpret_cast<uintptr_t>(global) % 16 != 0) emulator::fail("a misaligned address");
  static const char kPlace = 0;
  emulator::note_access(global, 16, emulator::Access::kWrite, &kPlace);
  std::memcpy(global, &words, 16);
}

inline void copy_async_16(void* shared, const void* global, bool valid) {
  emulator::start_copy(shared, global, 16, valid ? 16 : 0);
}
inline void commit_copies() { emulator::commit_copies(); }
template <int kPending>
void wait_copies() {
  emulator::wait_copies(kPending);
}

inline void allow_next_kernel() {}
inline void wait_for_earlier_kernels() { emulator::wait_for_earlier_kernels(); }
inline void begin_kernel() {
  allow_next_kernel();
  wait_for_earlier_kernels();
}

inline float reciprocal_approx(float x) { return 1.0f / x; }
inline float exp2_approx(float x) { return std::exp2(x); }

}  // namespace cogserve::cuda::ptx
