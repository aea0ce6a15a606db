#include "engine/backend/cuda/dense_attention.hpp"

#include "engine/backend/cuda/attention_tile.cuh"
#include "engine/backend/cuda/dispatch.hpp"
#include "engine/backend/cuda/launch.cuh"
#include "engine/backend/cuda/single_row_attention.cuh"

namespace cogserve::cuda {
namespace {

// --- kernels ------------------------------------------------------------------------------------

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kBlockRows = 16 * kWarps;

template <typename T>
struct DenseArguments {
  const T* qkv;
  int64_t qkv_stride;
  T* y;
  int64_t y_stride;
  int rows;
  int heads;
  int head_dim;
  float scale_log2e;
};

// Where rows begin, in bytes.
struct DenseOffset {
  int64_t stride;
  int64_t base;

  __device__ __forceinline__ int64_t operator()(int key) const { return base + key * stride; }
};

template <typename T>
__device__ __forceinline__ DenseOffset dense_offset(const DenseArguments<T>& a) {
  return {a.qkv_stride * static_cast<int64_t>(sizeof(T)), 0};
}

// 128 query rows of one head a block, 16 a warp; keys and values pass through shared memory once a
// block. A head of 112 is 7 steps of k = 16 and 14 groups of 8 columns: nothing is padded.
// 4 * kDim FLOP a pair of rows (of whole tiles of 64 keys); limited by the tensor cores.
template <typename T, int kDim>
__global__ __launch_bounds__(kThreads) void dense_kernel(DenseArguments<T> a) {
  const int first_row = static_cast<int>(blockIdx.x) * kBlockRows;
  const int column = static_cast<int>(blockIdx.y) * kDim;
  const int width = a.heads * kDim;
  const int low = first_row + static_cast<int>(threadIdx.x) / 32 * 16 + threadIdx.x % 32 / 4;
  QueryRows<kDim> rows;
  const T* q[2];
  T* y[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int64_t row = low + 8 * i;
    q[i] = row < a.rows ? a.qkv + row * a.qkv_stride + column : nullptr;
    y[i] = row < a.rows ? a.y + row * a.y_stride + column : nullptr;
    rows.limit[i] = a.rows;
  }
  load_queries<T, kDim>(q[0], q[1], rows);
  attend<T, kDim, kThreads>(a.qkv + width + column, a.qkv + 2 * width + column, dense_offset(a),
                            a.rows, a.scale_log2e, shared_memory<T>(), rows);
  store_rows<T, kDim>(rows, y[0], y[1]);
}

// One warp a row and head; see attend_single_row.
template <typename T>
__global__ __launch_bounds__(kThreads) void single_row_kernel(DenseArguments<T> a) {
  const int head = static_cast<int>(blockIdx.y) * kWarps + threadIdx.x / 32;
  if (head >= a.heads) return;
  const int64_t row = blockIdx.x;
  const int column = head * a.head_dim;
  const int width = a.heads * a.head_dim;
  attend_single_row(a.qkv + row * a.qkv_stride + column, a.qkv + width + column,
                    a.qkv + 2 * width + column, dense_offset(a), a.rows, a.head_dim, a.scale_log2e,
                    a.y + row * a.y_stride + column);
}

// --- launchers ----------------------------------------------------------------------------------

template <typename T, int kDim>
void start(const DenseArguments<T>& arguments, cudaStream_t stream) {
  launch("dense_attention",
         {dim3(ceil_div(arguments.rows, kBlockRows), arguments.heads), dim3(kThreads),
          kAttendBytes<kDim>},
         stream, dense_kernel<T, kDim>, arguments);
}

}  // namespace

void dense_attention(const Tensor& qkv, int heads, int head_dim, float scale, const Tensor& y,
                     cudaStream_t stream) {
  if (qkv.rows == 0) return;
  check(head_dim <= 32 * kSingleRowPerLane, "dense_attention: head_dim is at most 256");
  const bool aligned = rows_are_aligned(qkv) && rows_are_aligned(y);
  with_activation(qkv.dtype, [&](auto element) {
    using T = typename decltype(element)::Type;
    const DenseArguments<T> arguments = {
        qkv.row<T>(0), qkv.row_stride, y.row<T>(0),   y.row_stride, static_cast<int>(qkv.rows),
        heads,         head_dim,       scale * kLog2e};
    switch (aligned ? head_dim : 0) {
      case 32:
        return start<T, 32>(arguments, stream);
      case 64:
        return start<T, 64>(arguments, stream);
      case 112:
        return start<T, 112>(arguments, stream);
      case 128:
        return start<T, 128>(arguments, stream);
    }
    launch("dense_attention (any head size)",
           {dim3(qkv.rows, ceil_div(heads, kWarps)), dim3(kThreads), 0}, stream,
           single_row_kernel<T>, arguments);
  });
}

}  // namespace cogserve::cuda
