#include "engine/backend/cuda/norms.hpp"

#include "engine/backend/cuda/dispatch.hpp"
#include "engine/backend/cuda/launch.cuh"
#include "engine/backend/cuda/numeric.cuh"

namespace cogserve::cuda {
namespace {

// --- kernels ------------------------------------------------------------------------------------

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

enum class Norm { kRms, kAddRms, kLayer, kAddLayer };
constexpr bool has_mean(Norm norm) { return norm == Norm::kLayer || norm == Norm::kAddLayer; }

template <typename T>
struct NormArguments {
  const T* x;
  int64_t x_stride;
  const float* weight;
  const float* bias;
  T* y;
  int64_t y_stride;
  int64_t cols;
  float eps;
  T* sum = nullptr;  // kAddRms
  int64_t sum_stride = 0;
};

// The sum over the block in one fixed order: lanes by a tree, then warps in turn.
__device__ float block_sum(float value, float* scratch) {
  value = warp_sum(value);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  float sum = 0.0f;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) sum += scratch[warp];
  return sum;
}

// One block a row, the row in registers: kPacks groups of 8 elements a thread. Statistics in f32,
// the variance around the mean that is known by then.
// Bytes: 2 * cols read and 2 * cols written (kAddRms: as many more; kAddLayer: 2 * cols more read);
// parameters stay in L2.
template <typename T, Norm kNorm, int kPacks, bool kAligned>
__global__ __launch_bounds__(kThreads) void norm_kernel(NormArguments<T> a) {
  ptx::begin_kernel();
  float* const scratch = shared_memory<float>();  // [2, kWarps]
  const T* const x = a.x + blockIdx.x * a.x_stride;
  T* const y = a.y + blockIdx.x * a.y_stride;
  const int64_t first = static_cast<int64_t>(threadIdx.x) * kPack;
  constexpr int64_t kStep = static_cast<int64_t>(kThreads) * kPack;

  float values[kPacks][kPack];
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const int64_t at = first + p * kStep;
    load_pack<kAligned>(x + at, a.cols - at, values[p]);
    if constexpr (kNorm == Norm::kAddRms) {
      T* const sum = a.sum + blockIdx.x * a.sum_stride + at;
      float before[kPack];
      load_pack<kAligned>(sum, a.cols - at, before);
#pragma unroll
      for (int i = 0; i < kPack; ++i) values[p][i] = round_to<T>(before[i] + values[p][i]);
      store_pack<kAligned>(values[p], a.cols - at, sum);
    }
  }
  float mean = 0.0f;
  if constexpr (has_mean(kNorm)) {
    float sum = 0.0f;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
#pragma unroll
      for (int i = 0; i < kPack; ++i) sum += values[p][i];
    }
    mean = block_sum(sum, scratch) / static_cast<float>(a.cols);
  }
  float squares = 0.0f;
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      const bool inside = first + p * kStep + i < a.cols;
      const float centred = inside ? values[p][i] - mean : 0.0f;
      squares = fmaf(centred, centred, squares);
    }
  }
  const float variance = block_sum(squares, scratch + kWarps) / static_cast<float>(a.cols);
  const float scale = 1.0f / sqrtf(variance + a.eps);

#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const int64_t at = first + p * kStep;
    float weight[kPack], bias[kPack] = {}, before[kPack] = {};
    load_pack<kAligned>(a.weight + at, a.cols - at, weight);
    if constexpr (has_mean(kNorm)) load_pack<kAligned>(a.bias + at, a.cols - at, bias);
    if constexpr (kNorm == Norm::kAddLayer) load_pack<kAligned>(y + at, a.cols - at, before);
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      const float normed = (values[p][i] - mean) * scale;
      values[p][i] = before[i] + fmaf(normed, weight[i], bias[i]);
    }
    store_pack<kAligned>(values[p], a.cols - at, y + at);
  }
}

// --- launchers ----------------------------------------------------------------------------------

template <typename T, Norm kNorm, int kPacks, bool kAligned>
void start(const NormArguments<T>& arguments, int64_t rows, cudaStream_t stream) {
  launch("norm", {dim3(rows), dim3(kThreads), 2 * kWarps * sizeof(float)}, stream,
         norm_kernel<T, kNorm, kPacks, kAligned>, arguments);
}

template <Norm kNorm>
void norm(const Tensor& x, const Tensor& weight, const Tensor* bias, float eps, const Tensor& y,
          cudaStream_t stream, const Tensor* sum = nullptr) {
  if (x.rows == 0) return;
  check(x.cols <= kMaxNormCols, "norm: a row fits into a block's registers");
  const bool aligned = rows_are_aligned(x) && rows_are_aligned(y) && rows_are_aligned(weight) &&
                       (bias == nullptr || rows_are_aligned(*bias)) &&
                       (sum == nullptr || rows_are_aligned(*sum));
  with_activation(x.dtype, [&](auto element) {
    using T = typename decltype(element)::Type;
    const NormArguments<T> arguments = {x.row<T>(0),
                                        x.row_stride,
                                        weight.row<float>(0),
                                        bias == nullptr ? nullptr : bias->row<float>(0),
                                        y.row<T>(0),
                                        y.row_stride,
                                        x.cols,
                                        eps,
                                        sum == nullptr ? nullptr : sum->row<T>(0),
                                        sum == nullptr ? 0 : sum->row_stride};
    if (!aligned) return start<T, kNorm, 8, false>(arguments, x.rows, stream);
    if (x.cols <= kThreads * kPack) return start<T, kNorm, 1, true>(arguments, x.rows, stream);
    if (x.cols <= 2 * kThreads * kPack) return start<T, kNorm, 2, true>(arguments, x.rows, stream);
    start<T, kNorm, 8, true>(arguments, x.rows, stream);
  });
}

}  // namespace

void rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& y,
              cudaStream_t stream) {
  norm<Norm::kRms>(x, weight, nullptr, eps, y, stream);
}

void add_rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& sum,
                  const Tensor& y, cudaStream_t stream) {
  norm<Norm::kAddRms>(x, weight, nullptr, eps, y, stream, &sum);
}

void layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, float eps,
                const Tensor& y, cudaStream_t stream) {
  norm<Norm::kLayer>(x, weight, &bias, eps, y, stream);
}

void add_layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, float eps,
                    const Tensor& y, cudaStream_t stream) {
  norm<Norm::kAddLayer>(x, weight, &bias, eps, y, stream);
}

}  // namespace cogserve::cuda
