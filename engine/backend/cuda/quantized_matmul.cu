#include "engine/backend/cuda/dispatch.hpp"
#include "engine/backend/cuda/launch.cuh"
#include "engine/backend/cuda/ptx.cuh"
#include "engine/backend/cuda/quantized.hpp"
#include "engine/backend/cuda/quantized_decode.cuh"

namespace cogserve::cuda {
namespace {

// --- kernels ------------------------------------------------------------------------------------

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kRowsOfTile = 8;  // rows of x in one matrix instruction

template <typename T>
struct MatmulArguments {
  const T* x;
  int64_t x_stride;
  const float* bias;  // may be null
  void* y;
  int64_t y_stride;
  bool y_is_f32;
  bool wide;  // x may be read four elements at a time, and no input is beyond the end
  int rows;
  int span_tiles;  // tiles that share a scale and are taken together
};

// x[k .. k + 3] as two pairs; zeros beyond `in`.
template <typename T>
__device__ __forceinline__ uint2 load_four(const T* x, int64_t k, int64_t in, bool wide) {
  if (wide) return *reinterpret_cast<const uint2*>(x + k);
  const auto* bits = reinterpret_cast<const uint16_t*>(x);
  uint32_t values[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) values[i] = k + i < in ? bits[k + i] : 0u;
  return {values[0] | values[1] << 16, values[2] | values[3] << 16};
}

// Products of one tile of W with all rows, added to `sums`.
template <typename T, WeightFormat kFormat, int kTiles>
__device__ __forceinline__ void multiply_tile(const MatmulArguments<T>& a, const QuantizedMatrix& w,
                                              int64_t tile_row, int64_t tile,
                                              const GroupOfLane<T>& group, const float* codebook,
                                              const T* const (&x)[kTiles],
                                              float (&sums)[kTiles][4]) {
  const int lane = threadIdx.x % 32;
  const auto codes = load_codes<kFormat>(w, tile_row * w.layout.tiles_of_a_row() + tile, lane);
  const int64_t k = tile * kTileIns + lane % 4 * 16;
#pragma unroll
  for (int step = 0; step < kTileSteps; ++step) {
    uint32_t weights[4];
    decode_step<T, kFormat>(codes, step, group, codebook, weights);
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      const uint2 inputs = load_four(x[j], k + 4 * step, w.layout.in, a.wide);
      ptx::mma_m16n8k16<T>(sums[j], weights, {inputs.x, inputs.y});
    }
  }
}

// A block computes 16 outputs of 8 * kTiles rows. Its warps share the inputs, span by span, and are
// summed in turn. Bytes: a tile row of W, 16 * in * 4 or 8 bits and its scales; x comes from L1 and
// L2.
template <typename T, WeightFormat kFormat, int kTiles>
__global__ __launch_bounds__(kThreads) void quantized_matmul_kernel(
    MatmulArguments<T> a, const __grid_constant__ QuantizedMatrix w) {
  constexpr int kRows = kRowsOfTile * kTiles;
  float* const partial = shared_memory<float>();  // [kWarps, kRows, 16], then the codebook
  float* const codebook = partial + kWarps * kRows * kTileOuts;
  if (kFormat == WeightFormat::kCodebook4) {
    if (threadIdx.x < 16) codebook[threadIdx.x] = w.codebook[threadIdx.x];
    __syncthreads();
  }
  const int warp = threadIdx.x / 32;
  const int g = threadIdx.x % 32 / 4;
  const int t = threadIdx.x % 4;
  const int64_t tile_row = blockIdx.x;
  const int first_row = static_cast<int>(blockIdx.y) * kRows;
  const T* x[kTiles];  // rows beyond the end repeat the last one and are not stored
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
    x[j] = a.x + min(first_row + j * kRowsOfTile + g, a.rows - 1) * a.x_stride;
  }
  float sums[kTiles][4] = {};
  const int64_t tiles = w.layout.tiles_of_a_row();
  for (int64_t begin = warp * a.span_tiles; begin < tiles; begin += kWarps * a.span_tiles) {
    const auto group = load_group<T>(w, tile_row, begin * kTileIns / w.layout.group_size, g);
    float span_sums[kTiles][4] = {};
    const int64_t end = min(begin + a.span_tiles, tiles);
    for (int64_t tile = begin; tile < end; ++tile) {
      multiply_tile<T, kFormat, kTiles>(a, w, tile_row, tile, group, codebook, x, span_sums);
    }
    const bool scaled = kFormat == WeightFormat::kCodebook4;
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sums[j][i] = scaled ? sums[j][i] + span_sums[j][i]
                            : fmaf(span_sums[j][i], group.scale[i / 2], sums[j][i]);
      }
    }
  }
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = warp * kRows + j * kRowsOfTile + 2 * t + i % 2;
      partial[row * kTileOuts + g + 8 * (i / 2)] = sums[j][i];
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kRows * kTileOuts; i += kThreads) {
    const int row = first_row + i / kTileOuts;
    const int64_t out = tile_row * kTileOuts + i % kTileOuts;
    if (row >= a.rows || out >= w.layout.out) continue;
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < kWarps; ++j) sum += partial[j * kRows * kTileOuts + i];
    if (a.bias != nullptr) sum += a.bias[out];
    const int64_t at = row * a.y_stride + out;
    if (a.y_is_f32) {
      static_cast<float*>(a.y)[at] = sum;
    } else {
      static_cast<T*>(a.y)[at] = narrow<T>(sum);
    }
  }
}

// --- launchers ----------------------------------------------------------------------------------

template <typename T, WeightFormat kFormat, int kTiles>
void start(const MatmulArguments<T>& arguments, const QuantizedMatrix& w, cudaStream_t stream) {
  constexpr int kRows = kRowsOfTile * kTiles;
  const size_t shared = (kWarps * kRows * kTileOuts + 16) * sizeof(float);
  const dim3 grid(static_cast<unsigned>(w.layout.tile_rows()), ceil_div(arguments.rows, kRows));
  launch("quantized_matmul", {grid, dim3(kThreads), shared}, stream,
         quantized_matmul_kernel<T, kFormat, kTiles>, arguments, w);
}

template <typename T, WeightFormat kFormat>
void choose(const MatmulArguments<T>& arguments, const QuantizedMatrix& w, cudaStream_t stream) {
  if (arguments.rows <= 8) return start<T, kFormat, 1>(arguments, w, stream);
  if (arguments.rows <= 16) return start<T, kFormat, 2>(arguments, w, stream);
  if (arguments.rows <= 32) return start<T, kFormat, 4>(arguments, w, stream);
  start<T, kFormat, 8>(arguments, w, stream);
}

bool may_be_read_by_four(const Tensor& x) {
  return x.cols % kTileIns == 0 && x.row_stride % 4 == 0 &&
         reinterpret_cast<uintptr_t>(x.data) % 8 == 0;
}

}  // namespace

bool suits_quantized_matmul(const QuantizedLayout& layout) {
  return layout.group_size % kTileIns == 0 || layout.groups() == 1;
}

void quantized_matmul(const Tensor& x, const QuantizedMatrix& w, const Tensor* bias,
                      const Tensor& y, cudaStream_t stream) {
  if (x.rows == 0) return;
  with_activation(x.dtype, [&](auto element) {
    using T = typename decltype(element)::Type;
    const bool two_tiles = w.layout.group_size % (2 * kTileIns) == 0 || w.layout.groups() == 1;
    const MatmulArguments<T> arguments = {x.row<T>(0),
                                          x.row_stride,
                                          bias == nullptr ? nullptr : bias->row<float>(0),
                                          y.data,
                                          y.row_stride,
                                          y.dtype == DType::kF32,
                                          may_be_read_by_four(x),
                                          static_cast<int>(x.rows),
                                          two_tiles ? 2 : 1};
    with_format(w.layout.format, [&](auto format) {
      choose<T, format()>(arguments, w, stream);
    });
  });
}

}  // namespace cogserve::cuda
