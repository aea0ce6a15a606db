#include <limits>

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

// Resident blocks that a processor's registers are shared out for.
constexpr int resident_blocks(int tiles, bool wide) {
  if (tiles > 2) return 2;
  return tiles == 1 && wide ? 4 : 3;
}

template <typename T>
struct MatmulArguments {
  const T* x;
  int x_stride;
  int rows;
  const float* bias;  // may be null
  void* y;
  int64_t y_stride;
  bool y_is_f32;
  int tiles;              // of a row of W
  int groups;             // of a row of W
  uint32_t group_factor;  // tile t is in group t * group_factor >> 31
  int span_tiles;         // tiles that share a scale and are taken together
};

// A lane's inputs of a tile, whose first is x[first], as eight pairs; zeros from x[first + left]
// on. With kWide all are there, at an address of 16 bytes.
template <typename T, bool kWide>
__device__ __forceinline__ void load_inputs(const T* x, int first, int left,
                                            uint32_t (&pairs)[2 * kTileSteps]) {
  if constexpr (kWide) {
    const auto* from = reinterpret_cast<const uint4*>(x + first);
    const uint4 low = from[0];
    const uint4 high = from[kTileIns / 2 / kPack];
    pairs[0] = low.x, pairs[1] = low.y, pairs[2] = low.z, pairs[3] = low.w;
    pairs[4] = high.x, pairs[5] = high.y, pairs[6] = high.z, pairs[7] = high.w;
  } else {
    const auto* bits = reinterpret_cast<const uint16_t*>(x) + first;
#pragma unroll
    for (int i = 0; i < 2 * kTileSteps; ++i) {
      const int input = input_of(0, i / 2) + i % 2 * 2;
      const uint32_t low = input < left ? bits[input] : 0u;
      const uint32_t high = input + 1 < left ? bits[input + 1] : 0u;
      pairs[i] = low | high << 16;
    }
  }
}

// Products of a tile of W with all rows, added to `sums`. A lane's inputs of row tile j begin at
// x[at[j] + k].
template <typename T, int kTiles, bool kWide>
__device__ __forceinline__ void multiply_tile(const uint32_t (&weights)[kTileSteps][4], const T* x,
                                              const int (&at)[kTiles], int k, int left,
                                              float (&sums)[kTiles][4]) {
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
    uint32_t inputs[2 * kTileSteps];
    load_inputs<T, kWide>(x, at[j] + k, left, inputs);
#pragma unroll
    for (int step = 0; step < kTileSteps; ++step) {
      ptx::mma_m16n8k16<T>(sums[j], weights[step], {inputs[2 * step], inputs[2 * step + 1]});
    }
  }
}

// What a block computes: a matrix or, with two, silu of the first's product times the second's.
template <int kCount>
struct Operands {
  QuantizedMatrix w[kCount];
};

// Sums of a block: 16 outputs of 8 * kTiles rows, [kTiles, 4, 32].
template <int kTiles>
inline constexpr int kSums{kRowsOfTile * kTiles * kTileOuts};

// Each warp's share of the block's sums, into `partial`. The warps share the inputs, span by span.
// The next tile's codes and the next span's scales are on their way while this tile's products are
// computed.
template <typename T, WeightFormat kFormat, int kTiles, bool kWide>
__device__ __forceinline__ void accumulate(const MatmulArguments<T>& a, const QuantizedMatrix& w,
                                           const float* codebook, float* partial) {
  // Many sums wait in shared memory from span to span: their registers are for loads under way.
  constexpr bool kSumsShared = kTiles > 4;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int tile_row = static_cast<int>(blockIdx.x);
  const int first_row = static_cast<int>(blockIdx.y) * kRowsOfTile * kTiles;
  const int lane_inputs = input_of(lane % 4, 0);
  int at[kTiles];  // rows beyond the end repeat the last one and are not stored
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
    at[j] = min(first_row + j * kRowsOfTile + lane / 4, a.rows - 1) * a.x_stride + lane_inputs;
  }
  const auto load_tile = [&](int tile) {  // beyond the end: the last one's
    return load_codes<kFormat>(w, tile_row * a.tiles + min(tile, a.tiles - 1), lane);
  };
  const auto load_span = [&](int first_tile) {
    const uint64_t tile = static_cast<uint32_t>(min(first_tile, a.tiles - 1));
    const int group = static_cast<int>(tile * a.group_factor >> 31);
    return load_group(w, (tile_row * a.groups + group) * kTileOuts + lane / 4);
  };
  float* const lane_partial = partial + warp * kSums<kTiles> + lane;
  float sums[kTiles][4] = {};
  if (kSumsShared) {
#pragma unroll
    for (int i = 0; i < 4 * kTiles; ++i) lane_partial[32 * i] = 0.0f;
  }
  int begin = warp * a.span_tiles;
  auto codes = load_tile(begin);
  auto stored = load_span(begin);
  ptx::wait_for_earlier_kernels();  // only the weights were there all the time
  while (begin < a.tiles) {
    const auto group = read_group<T>(stored, w.layout.half_scales);
    int tile = begin;
    const int end = min(begin + a.span_tiles, a.tiles);
    begin += kWarps * a.span_tiles;
    if (!kSumsShared) stored = load_span(begin);
    float span_sums[kTiles][4] = {};
#pragma unroll 1
    do {
      uint32_t weights[kTileSteps][4];
      decode_tile<T, kFormat>(codes, group, codebook, weights);
      codes = load_tile(tile + 1 < end ? tile + 1 : begin);
      const int k = tile * kTileIns;
      const int left = static_cast<int>(w.layout.in) - k - lane_inputs;
      multiply_tile<T, kTiles, kWide>(weights, a.x, at, k, left, span_sums);
    } while (++tile < end);
    if (kSumsShared) stored = load_span(begin);
#pragma unroll
    for (int i = 0; i < 4 * kTiles; ++i) {
      const float span_sum = span_sums[i / 4][i % 4];
      float& sum = kSumsShared ? lane_partial[32 * i] : sums[i / 4][i % 4];
      sum = kFormat == WeightFormat::kCodebook4 ? sum + span_sum
                                                : fmaf(span_sum, group.scale[i % 4 / 2], sum);
    }
  }
  if (!kSumsShared) {
#pragma unroll
    for (int i = 0; i < 4 * kTiles; ++i) lane_partial[32 * i] = sums[i / 4][i % 4];
  }
}

// Bytes: for each matrix a tile row, 16 * in * 4 or 8 bits and its scales; x comes from L1 and L2.
template <typename T, WeightFormat kFormat, int kTiles, bool kWide, int kCount>
__global__ __launch_bounds__(kThreads, resident_blocks(kTiles, kWide)) void quantized_matmul_kernel(
    MatmulArguments<T> a, const __grid_constant__ Operands<kCount> operands) {
  ptx::allow_next_kernel();
  constexpr bool kGated = kCount == 2;
  // [kWarps] sums of the warps, then the codebook, then sums of the gate.
  float* const partial = shared_memory<float>();
  float* const codebook = partial + kWarps * kSums<kTiles>;
  float* const gate = codebook + 16;
  if (kFormat == WeightFormat::kCodebook4) {
    if (threadIdx.x < 16) codebook[threadIdx.x] = operands.w[0].codebook[threadIdx.x];
    __syncthreads();
  }
  const auto total = [&](int place) {
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < kWarps; ++j) sum += partial[j * kSums<kTiles> + place];
    return sum;
  };
  accumulate<T, kFormat, kTiles, kWide>(a, operands.w[0], codebook, partial);
  __syncthreads();
  if constexpr (kGated) {
    for (int i = threadIdx.x; i < kSums<kTiles>; i += kThreads) gate[i] = total(i);
    __syncthreads();
    accumulate<T, kFormat, kTiles, kWide>(a, operands.w[1], codebook, partial);
    __syncthreads();
  }
  const int64_t first_out = static_cast<int64_t>(blockIdx.x) * kTileOuts;
  const int first_row = static_cast<int>(blockIdx.y) * kRowsOfTile * kTiles;
  for (int i = threadIdx.x; i < kSums<kTiles>; i += kThreads) {
    const int row =
        first_row + i / (kRowsOfTile * kTileOuts) * kRowsOfTile + i % 4 * 2 + i / 32 % 2;
    const int64_t out = first_out + i % 32 / 4 + i / 64 % 2 * 8;
    if (row >= a.rows || out >= operands.w[0].layout.out) continue;
    float sum = total(i);
    if constexpr (kGated) sum = silu(round_to<T>(gate[i])) * round_to<T>(sum);
    if (a.bias != nullptr) sum += a.bias[out];
    const int64_t to = row * a.y_stride + out;
    if (a.y_is_f32) {
      static_cast<float*>(a.y)[to] = sum;
    } else {
      static_cast<T*>(a.y)[to] = narrow<T>(sum);
    }
  }
}

// --- launchers ----------------------------------------------------------------------------------

template <WeightFormat kFormat, int kTiles, bool kWide, typename T, int kCount>
void start(const MatmulArguments<T>& arguments, const Operands<kCount>& operands,
           cudaStream_t stream) {
  constexpr int kBlockSums = kWarps + kCount - 1;
  const size_t shared = (kBlockSums * kSums<kTiles> + 16) * sizeof(float);
  const dim3 grid(static_cast<unsigned>(operands.w[0].layout.tile_rows()),
                  ceil_div(arguments.rows, kRowsOfTile * kTiles));
  launch(kCount == 2 ? "gated_quantized_matmul" : "quantized_matmul",
         {grid, dim3(kThreads), shared}, stream,
         quantized_matmul_kernel<T, kFormat, kTiles, kWide, kCount>, arguments, operands);
}

// By 16 bytes, without a look at where the row ends.
bool may_be_read_wide(const Tensor& x) { return x.cols % kTileIns == 0 && rows_are_aligned(x); }

template <WeightFormat kFormat, typename T, int kCount>
void choose(const Tensor& x, const MatmulArguments<T>& arguments, const Operands<kCount>& operands,
            cudaStream_t stream) {
  // Such rows are seldom enough for W to be read once for every 8 of them.
  if (!may_be_read_wide(x)) return start<kFormat, 1, false>(arguments, operands, stream);
  if (x.rows <= 8) return start<kFormat, 1, true>(arguments, operands, stream);
  if (x.rows <= 16) return start<kFormat, 2, true>(arguments, operands, stream);
  if (x.rows <= 32) return start<kFormat, 4, true>(arguments, operands, stream);
  start<kFormat, 8, true>(arguments, operands, stream);
}

template <int kCount>
void multiply(const Tensor& x, const Operands<kCount>& operands, const Tensor* bias,
              const Tensor& y, cudaStream_t stream) {
  if (x.rows == 0) return;
  const QuantizedLayout& layout = operands.w[0].layout;
  const int64_t groups = layout.groups();
  const int64_t tiles = layout.tiles_of_a_row();
  const int64_t group_tiles = groups == 1 ? tiles : layout.group_size / kTileIns;
  check_counts(layout);
  check(tiles <= (1 << 15), "quantized_matmul: t * group_factor >> 31 is exact");
  check((x.rows - 1) * x.row_stride + tiles * kTileIns <= std::numeric_limits<int>::max(),
        "quantized_matmul: x is counted in 32 bits");
  with_activation(x.dtype, [&](auto element) {
    using T = typename decltype(element)::Type;
    const MatmulArguments<T> arguments = {
        x.row<T>(0),
        static_cast<int>(x.row_stride),
        static_cast<int>(x.rows),
        bias == nullptr ? nullptr : bias->row<float>(0),
        y.data,
        y.row_stride,
        y.dtype == DType::kF32,
        static_cast<int>(tiles),
        static_cast<int>(groups),
        static_cast<uint32_t>(((int64_t{1} << 31) + group_tiles - 1) / group_tiles),
        groups == 1 || group_tiles % 2 == 0 ? 2 : 1};
    with_format(layout.format,
                [&](auto format) { choose<format()>(x, arguments, operands, stream); });
  });
}

}  // namespace

bool suits_quantized_matmul(const QuantizedLayout& layout) {
  return layout.group_size % kTileIns == 0 || layout.groups() == 1;
}

void quantized_matmul(const Tensor& x, const QuantizedMatrix& w, const Tensor* bias,
                      const Tensor& y, cudaStream_t stream) {
  multiply(x, Operands<1>{{w}}, bias, y, stream);
}

void gated_quantized_matmul(const Tensor& x, const QuantizedMatrix& gate, const QuantizedMatrix& up,
                            const Tensor& y, cudaStream_t stream) {
  check(gate.layout == up.layout && gate.codebook == up.codebook,
        "gated_quantized_matmul: gate and up are of one form");
  multiply(x, Operands<2>{{gate, up}}, nullptr, y, stream);
}

}  // namespace cogserve::cuda
