#include "engine/backend/cuda/gemv.hpp"

#include "engine/backend/cuda/dispatch.hpp"
#include "engine/backend/cuda/launch.cuh"
#include "engine/backend/cuda/numeric.cuh"

namespace cogserve::cuda {
namespace {

// --- kernels ------------------------------------------------------------------------------------

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kOuts = 4;     // rows of W, or of gate and up together, that a block takes
constexpr int kMaxRows = 8;  // rows of x that a block takes

template <typename T, typename Out>
struct GemvArguments {
  const T* x;
  int64_t x_stride;
  const T* w;
  const T* up;        // w is the gate, then; else null
  const float* bias;  // may be null
  Out* y;
  int64_t y_stride;
  int rows;
  int64_t in;
  int64_t out;
};

// sums[r][o] += x[r][k] w[o][k] over this thread's share of k: with kWide groups of 8 elements, a
// block's threads side by side, kStep elements further each turn; else single elements.
template <typename T, int kRows, bool kWide>
__device__ __forceinline__ void accumulate(const T* const (&x)[kRows], const T* const (&w)[kOuts],
                                           int64_t in, float (&sums)[kRows][kOuts]) {
  if constexpr (kWide) {
    constexpr int kStep = kThreads * kPack;
#pragma unroll 2
    for (int64_t k = threadIdx.x * kPack; k < in; k += kStep) {
      uint4 words[kOuts];
#pragma unroll
      for (int o = 0; o < kOuts; ++o) words[o] = *reinterpret_cast<const uint4*>(w[o] + k);
      float weights[kOuts][kPack];
#pragma unroll
      for (int o = 0; o < kOuts; ++o) unpack<T>(words[o], weights[o]);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        // Loaded before it is unpacked, as the weights are: else the compiler makes four loads of
        // it in f16.
        const uint4 piece = *reinterpret_cast<const uint4*>(x[r] + k);
        float inputs[kPack];
        unpack<T>(piece, inputs);
#pragma unroll
        for (int o = 0; o < kOuts; ++o) {
#pragma unroll
          for (int i = 0; i < kPack; ++i) {
            sums[r][o] = fmaf(inputs[i], weights[o][i], sums[r][o]);
          }
        }
      }
    }
  } else {
    for (int64_t k = threadIdx.x; k < in; k += kThreads) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int o = 0; o < kOuts; ++o) {
          sums[r][o] = fmaf(widen(x[r][k]), widen(w[o][k]), sums[r][o]);
        }
      }
    }
  }
}

// A block computes kOuts outputs of kRows rows, or half as many where those of gate and up become
// one; its four warps share the length of the rows, so that even 4096 outputs keep a large GPU's
// memory busy. Lanes are summed by a tree, then warps in turn. Bytes: 2 * in * out of W for each
// kRows rows of x (x itself comes from L1 and L2).
template <typename T, typename Out, int kRows, bool kWide, bool kGated>
__global__ __launch_bounds__(kThreads) void gemv_kernel(GemvArguments<T, Out> a) {
  ptx::begin_kernel();
  constexpr int kStored = kGated ? kOuts / 2 : kOuts;
  float* const partial = shared_memory<float>();  // [kWarps, kRows * kOuts]
  const int64_t first_out = static_cast<int64_t>(blockIdx.x) * kStored;
  const int first_row = static_cast<int>(blockIdx.y) * kRows;
  // Rows and outputs beyond the end repeat the last one and are not stored.
  const T* x[kRows];
  const T* w[kOuts];
#pragma unroll
  for (int r = 0; r < kRows; ++r) x[r] = a.x + min(first_row + r, a.rows - 1) * a.x_stride;
#pragma unroll
  for (int o = 0; o < kOuts; ++o) {
    w[o] = (o < kStored ? a.w : a.up) + min(first_out + o % kStored, a.out - 1) * a.in;
  }
  float sums[kRows][kOuts] = {};
  accumulate<T, kRows, kWide>(x, w, a.in, sums);

  const int warp = threadIdx.x / 32;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int o = 0; o < kOuts; ++o) {
      const float sum = warp_sum(sums[r][o]);
      if (threadIdx.x % 32 == 0) partial[(warp * kRows + r) * kOuts + o] = sum;
    }
  }
  __syncthreads();
  const int r = static_cast<int>(threadIdx.x) / kOuts;
  const int64_t out = first_out + threadIdx.x % kOuts;
  if (threadIdx.x % kOuts >= kStored) return;
  if (r >= kRows || first_row + r >= a.rows || out >= a.out) return;
  const auto total = [&](int place) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kWarps; ++i) sum += partial[i * kRows * kOuts + place];
    return sum;
  };
  float sum = total(threadIdx.x);
  if constexpr (kGated) {
    sum = silu(round_to<T>(sum)) * round_to<T>(total(threadIdx.x + kStored));
  }
  if (a.bias != nullptr) sum += a.bias[out];
  a.y[(first_row + r) * a.y_stride + out] = narrow<Out>(sum);
}

// --- launchers ----------------------------------------------------------------------------------

template <bool kGated, int kRows, bool kWide, typename T, typename Out>
void start(const GemvArguments<T, Out>& arguments, cudaStream_t stream) {
  const dim3 grid(ceil_div(arguments.out, kGated ? kOuts / 2 : kOuts),
                  ceil_div(arguments.rows, kRows));
  launch(kGated ? "gated_gemv" : "gemv",
         {grid, dim3(kThreads), kWarps * kRows * kOuts * sizeof(float)}, stream,
         gemv_kernel<T, Out, kRows, kWide, kGated>, arguments);
}

template <bool kGated, typename T, typename Out>
void choose(const GemvArguments<T, Out>& arguments, bool wide, cudaStream_t stream) {
  if (!wide) return start<kGated, kMaxRows, false>(arguments, stream);
  if (arguments.rows == 1) return start<kGated, 1, true>(arguments, stream);
  if (arguments.rows == 2) return start<kGated, 2, true>(arguments, stream);
  if (arguments.rows <= 4) return start<kGated, 4, true>(arguments, stream);
  start<kGated, kMaxRows, true>(arguments, stream);
}

}  // namespace

void gemv(const Tensor& x, const Tensor& w, const Tensor* bias, const Tensor& y,
          cudaStream_t stream) {
  if (x.rows == 0) return;
  const bool wide = rows_are_aligned(x) && rows_are_aligned(w);
  with_activation(x.dtype, [&](auto element) {
    using T = typename decltype(element)::Type;
    const auto run = [&](auto out) {
      using Out = typename decltype(out)::Type;
      const GemvArguments<T, Out> arguments = {x.row<T>(0),
                                               x.row_stride,
                                               w.row<T>(0),
                                               nullptr,
                                               bias == nullptr ? nullptr : bias->row<float>(0),
                                               y.row<Out>(0),
                                               y.row_stride,
                                               static_cast<int>(x.rows),
                                               x.cols,
                                               w.rows};
      choose<false>(arguments, wide, stream);
    };
    if (y.dtype == DType::kF32) return run(Element<float>());
    run(Element<T>());
  });
}

void gated_gemv(const Tensor& x, const Tensor& gate, const Tensor& up, const Tensor& y,
                cudaStream_t stream) {
  if (x.rows == 0) return;
  const bool wide = rows_are_aligned(x) && rows_are_aligned(gate) && rows_are_aligned(up);
  with_activation(x.dtype, [&](auto element) {
    using T = typename decltype(element)::Type;
    const GemvArguments<T, T> arguments = {
        x.row<T>(0), x.row_stride, gate.row<T>(0),           up.row<T>(0), nullptr,
        y.row<T>(0), y.row_stride, static_cast<int>(x.rows), x.cols,       gate.rows};
    choose<true>(arguments, wide, stream);
  });
}

}  // namespace cogserve::cuda
