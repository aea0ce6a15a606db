#include "engine/backend/cuda/rope_kv.hpp"

#include <algorithm>

#include "engine/backend/cuda/dispatch.hpp"
#include "engine/backend/cuda/launch.cuh"
#include "engine/backend/cuda/numeric.cuh"

namespace cogserve::cuda {
namespace {

// --- kernels ------------------------------------------------------------------------------------

constexpr int kThreads = 256;

template <typename T>
struct RopeArguments {
  T* qkv;
  int64_t qkv_stride;
  int heads;
  int kv_heads;
  int half;  // head_dim / 2
  const int32_t* positions;
  const int64_t* slots;
  const float* cos;
  int64_t cos_stride;
  const float* sin;
  int64_t sin_stride;
  T* keys;
  T* values;
  int block_size;
};

// gridDim.y blocks share a row; a thread takes one pair (i, half + i) of one head at a time: the
// halves (a, b) become (a cos - b sin, b cos + a sin) in f32, without fused operations, rounded to
// T once. Bytes for each row: 2 * width read, 2 * width written, half * 8 of tables.
template <typename T>
__global__ __launch_bounds__(kThreads) void rope_kernel(RopeArguments<T> a) {
  ptx::begin_kernel();
  T* const row = a.qkv + blockIdx.x * a.qkv_stride;
  const float* const cos = a.cos + a.positions[blockIdx.x] * a.cos_stride;
  const float* const sin = a.sin + a.positions[blockIdx.x] * a.sin_stride;
  const int64_t slot = a.slots[blockIdx.x];
  const int64_t block = slot / a.block_size;
  const int64_t offset = slot % a.block_size;
  const int head_dim = 2 * a.half;
  const int pairs = (a.heads + 2 * a.kv_heads) * a.half;
  const int step = static_cast<int>(gridDim.y) * kThreads;
  for (int pair = static_cast<int>(blockIdx.y) * kThreads + threadIdx.x; pair < pairs;
       pair += step) {
    const int head = pair / a.half;
    const int i = pair % a.half;
    if (head >= a.heads && slot < 0) return;  // kept nowhere; queries come first
    T* const from = row + head * head_dim + i;
    const int kv_head = (head - a.heads) % a.kv_heads;
    const int64_t at =
        ((block * a.kv_heads + kv_head) * a.block_size + offset) * head_dim + i;  // if not a query
    if (head >= a.heads + a.kv_heads) {
      a.values[at] = from[0];
      a.values[at + a.half] = from[a.half];
      continue;
    }
    const float low = widen(from[0]);
    const float high = widen(from[a.half]);
    const T new_low = narrow<T>(__fsub_rn(__fmul_rn(low, cos[i]), __fmul_rn(high, sin[i])));
    const T new_high = narrow<T>(__fadd_rn(__fmul_rn(high, cos[i]), __fmul_rn(low, sin[i])));
    T* const to = head < a.heads ? from : a.keys + at;
    to[0] = new_low;
    to[a.half] = new_high;
  }
}

// --- launchers ----------------------------------------------------------------------------------

// Few rows are shared out among more blocks, so that they do not run on as few processors.
unsigned blocks_of_row(int64_t rows, int64_t pairs) {
  constexpr int64_t kEnoughBlocks = 1024;
  return static_cast<unsigned>(
      std::clamp<int64_t>(kEnoughBlocks / rows, 1, ceil_div(pairs, kThreads)));
}

}  // namespace

void rope_and_store_kv(const Tensor& qkv, int heads, const int32_t* positions, const int64_t* slots,
                       const Tensor& cos, const Tensor& sin, const PagedKv& kv,
                       cudaStream_t stream) {
  if (qkv.rows == 0) return;
  with_activation(qkv.dtype, [&](auto element) {
    using T = typename decltype(element)::Type;
    const RopeArguments<T> arguments = {qkv.row<T>(0),
                                        qkv.row_stride,
                                        heads,
                                        kv.kv_heads,
                                        kv.head_dim / 2,
                                        positions,
                                        slots,
                                        cos.row<float>(0),
                                        cos.row_stride,
                                        sin.row<float>(0),
                                        sin.row_stride,
                                        static_cast<T*>(kv.keys),
                                        static_cast<T*>(kv.values),
                                        kv.block_size};
    const dim3 grid(qkv.rows, blocks_of_row(qkv.rows, qkv.cols / 2));
    launch("rope_and_store_kv", {grid, dim3(kThreads), 0}, stream, rope_kernel<T>, arguments);
  });
}

}  // namespace cogserve::cuda
