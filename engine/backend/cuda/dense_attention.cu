#include "engine/backend/cuda/dense_attention.hpp"

#include "engine/backend/cuda/attention_tile.cuh"
#include "engine/backend/cuda/dispatch.hpp"
#include "engine/backend/cuda/launch.cuh"
#include "engine/backend/cuda/single_row_attention.cuh"

namespace cogserve::cuda {
namespace {

// --- kernels ------------------------------------------------------------------------------------

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kParts = 2;
constexpr int kWarpRows = 16 * kParts;
constexpr int kBlockRows = kWarpRows * kWarps;

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

// Where rows begin, in bytes. By unsigned numbers, as PagedOffset.
struct DenseOffset {
  uint32_t stride;
  int64_t base;

  __device__ __forceinline__ int64_t operator()(int key) const {
    return base + static_cast<int64_t>(uint64_t{static_cast<uint32_t>(key)} * stride);
  }
};

template <typename T>
__device__ __forceinline__ DenseOffset dense_offset(const DenseArguments<T>& a) {
  return {static_cast<uint32_t>(a.qkv_stride * sizeof(T)), 0};
}

// 128 query rows of one head a block, 32 a warp; keys and values pass through shared memory once a
// block. A head of 112 is 7 steps of k = 16 and 14 groups of 8 columns: nothing is padded. Two
// blocks fill a processor's registers, so that one can compute weights while the other multiplies.
// 4 * kDim FLOP a pair of rows (of whole tiles of 32 keys); limited by the tensor cores.
template <typename T, int kDim>
__global__ void __launch_bounds__(kThreads, 2) dense_kernel(DenseArguments<T> a) {
  ptx::begin_kernel();
  const int first_row =
      static_cast<int>(blockIdx.x) * kBlockRows + static_cast<int>(threadIdx.x) / 32 * kWarpRows;
  const int column = static_cast<int>(blockIdx.y) * kDim;
  const int width = a.heads * kDim;
  const auto at = [&](auto* array, int64_t stride, int part, int high) {
    const int row = first_row + 16 * part + 8 * high + static_cast<int>(threadIdx.x) % 32 / 4;
    return row < a.rows ? array + row * stride + column : nullptr;
  };
  QueryRows<kDim> rows[kParts];
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    rows[part].limit[0] = a.rows;
    rows[part].limit[1] = a.rows;
    load_queries<T, kDim>(at(a.qkv, a.qkv_stride, part, 0), at(a.qkv, a.qkv_stride, part, 1),
                          rows[part]);
  }
  attend<T, kDim, kThreads>(a.qkv + width + column, a.qkv + 2 * width + column, dense_offset(a),
                            a.rows, a.scale_log2e, first_row >= a.rows, shared_memory<T>(), rows);
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    store_rows<T, kDim>(rows[part], at(a.y, a.y_stride, part, 0), at(a.y, a.y_stride, part, 1));
  }
}

// One warp a row and head; see attend_single_row.
template <typename T>
__global__ __launch_bounds__(kThreads) void single_row_kernel(DenseArguments<T> a) {
  ptx::begin_kernel();
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
  check(qkv.row_stride >> 30 == 0, "dense_attention: a row is below 4 GiB");
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
