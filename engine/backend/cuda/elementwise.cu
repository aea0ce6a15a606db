#include "engine/backend/cuda/elementwise.hpp"

#include <algorithm>

#include "engine/backend/cuda/dispatch.hpp"
#include "engine/backend/cuda/launch.cuh"
#include "engine/backend/cuda/numeric.cuh"
#include "engine/backend/cuda/ptx.cuh"
#include "engine/backend/sampling.hpp"

namespace cogserve::cuda {
namespace {

// --- kernels ------------------------------------------------------------------------------------
//
// All of them are limited by memory: what they read and write is given with each. A block takes 256
// groups of 8 elements (or 256 elements) of a row; blockIdx.y walks over the rows.

constexpr int kThreads = 256;
constexpr int64_t kMaxGridRows = 65535;

template <typename T>
struct Rows {
  T* data;
  int64_t stride;

  __device__ T* at(int64_t row) const { return data + row * stride; }
};

struct Shape {
  int64_t rows;
  int64_t cols;
};

__device__ __forceinline__ int64_t thread_column() {
  return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
}

// y += x. 4 * cols bytes read and 2 * cols written for each row.
template <typename T, bool kAligned>
__global__ __launch_bounds__(kThreads) void add_kernel(Rows<const T> x, Rows<T> y, Shape shape) {
  ptx::begin_kernel();
  const int64_t at = thread_column() * kPack;
  for (int64_t row = blockIdx.y; row < shape.rows; row += gridDim.y) {
    float a[kPack], b[kPack];
    load_pack<kAligned>(x.at(row) + at, shape.cols - at, a);
    load_pack<kAligned>(y.at(row) + at, shape.cols - at, b);
#pragma unroll
    for (int i = 0; i < kPack; ++i) b[i] += a[i];
    store_pack<kAligned>(b, shape.cols - at, y.at(row) + at);
  }
}

// y = silu(gate) * up, rounded once. 4 * cols bytes read and 2 * cols written for each row.
template <typename T, bool kAligned>
__global__ __launch_bounds__(kThreads) void silu_mul_kernel(Rows<const T> gate, Rows<const T> up,
                                                            Rows<T> y, Shape shape) {
  ptx::begin_kernel();
  const int64_t at = thread_column() * kPack;
  for (int64_t row = blockIdx.y; row < shape.rows; row += gridDim.y) {
    float a[kPack], b[kPack];
    load_pack<kAligned>(gate.at(row) + at, shape.cols - at, a);
    load_pack<kAligned>(up.at(row) + at, shape.cols - at, b);
#pragma unroll
    for (int i = 0; i < kPack; ++i) b[i] *= silu(a[i]);
    store_pack<kAligned>(b, shape.cols - at, y.at(row) + at);
  }
}

// x Phi(x) = max(x, 0) - a Phi(-a) with a = |x|, by the error function and not by tanh. At 16,
// where a is cut for the sake of infinities, the second term is 0 already. 2 Phi(-a) is t 2^(p(t) -
// a^2 log2(e) / 2) with t = 1 / (1 + 0.2192031 a), as in the erfcc of Numerical Recipes; this p is
// a minimax fit under p(1) = 0, and leaves a relative error of 3e-7 before rounding. 2^10 is lent
// to the power of 2, which else would be 0 where bf16 has numbers yet.
__device__ __forceinline__ float erf_gelu(float x) {
  const float a = fminf(fabsf(x), 16.0f);
  const float t = ptx::reciprocal_approx(fmaf(0.2192031f, a, 1.0f));
  float p = 0.61523753f;
  p = fmaf(p, t, -2.3888054f);
  p = fmaf(p, t, 3.2549193f);
  p = fmaf(p, t, -2.2009442f);
  p = fmaf(p, t, 1.3693911f);
  p = fmaf(p, t, 0.38805556f);
  p = fmaf(p, t, 1.4797392f);
  p = fmaf(p, t, 7.4824066f);
  const float root = 0.84932184f * a;  // a^2 log2(e) / 2 is its square
  const float lent = t * ptx::exp2_approx(fmaf(-root, root, p));
  return fmaf(-0x1p-11f, a * lent, x < 0.0f ? 0.0f : x);
}

// In place. 2 * cols bytes read and 2 * cols written for each row.
template <typename T, bool kAligned>
__global__ __launch_bounds__(kThreads) void gelu_kernel(Rows<T> x, Shape shape) {
  ptx::begin_kernel();
  const int64_t at = thread_column() * kPack;
  for (int64_t row = blockIdx.y; row < shape.rows; row += gridDim.y) {
    float a[kPack];
    load_pack<kAligned>(x.at(row) + at, shape.cols - at, a);
#pragma unroll
    for (int i = 0; i < kPack; ++i) a[i] = erf_gelu(a[i]);
    store_pack<kAligned>(a, shape.cols - at, x.at(row) + at);
  }
}

// y[r, :] = x[index of r, :]. sizeof(From) + sizeof(To) bytes for each element.
template <typename From, typename To>
__global__ __launch_bounds__(kThreads) void copy_rows_kernel(Rows<const From> x, RowIndex index,
                                                             Rows<To> y, Shape shape) {
  ptx::begin_kernel();
  const int64_t col = thread_column();
  if (col >= shape.cols) return;
  for (int64_t row = blockIdx.y; row < shape.rows; row += gridDim.y) {
    int64_t from = index.rows == nullptr ? row : index.rows[row];
    if (from < kNoToken) from = index.drawn_ids[drawn_row(static_cast<int32_t>(from))];
    if (from >= 0) y.at(row)[col] = narrow<To>(widen(x.at(from)[col]));
  }
}

// Patches [grid^2, 3 * patch^2] of planes [3, size^2]. 4 bytes read and 2 written per pixel value.
template <typename T>
__global__ __launch_bounds__(kThreads) void patches_kernel(Rows<const float> pixels, int size,
                                                           int patch, Rows<T> y, Shape shape) {
  ptx::begin_kernel();
  const int64_t col = thread_column();
  if (col >= shape.cols) return;
  const int channel = static_cast<int>(col) / (patch * patch);
  const int line = static_cast<int>(col) / patch % patch;
  const int column = static_cast<int>(col) % patch;
  const int grid = size / patch;
  for (int64_t row = blockIdx.y; row < shape.rows; row += gridDim.y) {
    const int64_t top = row / grid * patch + line;
    const int64_t left = row % grid * patch + column;
    y.at(row)[col] = narrow<T>(pixels.at(channel)[top * size + left]);
  }
}

// Rows of each 2x2 cell side by side. 2 bytes read and 2 written per element.
template <typename T>
__global__ __launch_bounds__(kThreads) void merge_kernel(Rows<const T> x, int grid, int64_t width,
                                                         Rows<T> y, Shape shape) {
  ptx::begin_kernel();
  const int64_t col = thread_column();
  if (col >= shape.cols) return;
  const int64_t part = col / width;
  for (int64_t row = blockIdx.y; row < shape.rows; row += gridDim.y) {
    const int64_t top = row / (grid / 2) * 2 + part / 2;
    const int64_t left = row % (grid / 2) * 2 + part % 2;
    y.at(row)[col] = x.at(top * grid + left)[col % width];
  }
}

// --- launchers ----------------------------------------------------------------------------------

template <typename T>
Rows<T> rows_of(const Tensor& tensor) {
  return {static_cast<T*>(tensor.data), tensor.row_stride};
}

// Threads for every element (or group of `per_thread`) of `tensor`.
LaunchShape cover(const Tensor& tensor, int64_t per_thread) {
  const auto rows = static_cast<unsigned>(std::min(tensor.rows, kMaxGridRows));
  return {dim3(ceil_div(tensor.cols, per_thread * kThreads), rows), dim3(kThreads), 0};
}

Shape shape_of(const Tensor& tensor) { return {tensor.rows, tensor.cols}; }

bool is_empty(const Tensor& tensor) { return tensor.rows == 0 || tensor.cols == 0; }

// Calls `body(Element<T>(), std::bool_constant<aligned>())`.
template <typename Body>
void with_access(DType dtype, bool aligned, const Body& body) {
  with_activation(dtype, [&](auto element) {
    if (aligned) return body(element, std::true_type());
    body(element, std::false_type());
  });
}

}  // namespace

void add(const Tensor& x, const Tensor& y, cudaStream_t stream) {
  if (is_empty(y)) return;
  with_access(y.dtype, rows_are_aligned(x) && rows_are_aligned(y), [&](auto element, auto aligned) {
    using T = typename decltype(element)::Type;
    launch("add", cover(y, kPack), stream, add_kernel<T, decltype(aligned)::value>,
           rows_of<const T>(x), rows_of<T>(y), shape_of(y));
  });
}

void silu_mul(const Tensor& gate, const Tensor& up, const Tensor& y, cudaStream_t stream) {
  if (is_empty(y)) return;
  const bool all_aligned = rows_are_aligned(gate) && rows_are_aligned(up) && rows_are_aligned(y);
  with_access(y.dtype, all_aligned, [&](auto element, auto aligned) {
    using T = typename decltype(element)::Type;
    launch("silu_mul", cover(y, kPack), stream, silu_mul_kernel<T, decltype(aligned)::value>,
           rows_of<const T>(gate), rows_of<const T>(up), rows_of<T>(y), shape_of(y));
  });
}

void gelu(const Tensor& x, cudaStream_t stream) {
  if (is_empty(x)) return;
  with_access(x.dtype, rows_are_aligned(x), [&](auto element, auto aligned) {
    using T = typename decltype(element)::Type;
    launch("gelu", cover(x, kPack), stream, gelu_kernel<T, decltype(aligned)::value>, rows_of<T>(x),
           shape_of(x));
  });
}

void copy_rows(const Tensor& x, const RowIndex& index, const Tensor& y, cudaStream_t stream) {
  if (is_empty(y)) return;
  with_float(x.dtype, [&](auto from) {
    with_float(y.dtype, [&](auto to) {
      using From = typename decltype(from)::Type;
      using To = typename decltype(to)::Type;
      launch("copy_rows", cover(y, 1), stream, copy_rows_kernel<From, To>, rows_of<const From>(x),
             index, rows_of<To>(y), shape_of(y));
    });
  });
}

void extract_patches(const Tensor& pixels, int size, int patch, const Tensor& y,
                     cudaStream_t stream) {
  if (is_empty(y)) return;
  with_activation(y.dtype, [&](auto element) {
    using T = typename decltype(element)::Type;
    launch("extract_patches", cover(y, 1), stream, patches_kernel<T>, rows_of<const float>(pixels),
           size, patch, rows_of<T>(y), shape_of(y));
  });
}

void merge_2x2(const Tensor& x, int grid, const Tensor& y, cudaStream_t stream) {
  if (is_empty(y)) return;
  with_activation(y.dtype, [&](auto element) {
    using T = typename decltype(element)::Type;
    launch("merge_2x2", cover(y, 1), stream, merge_kernel<T>, rows_of<const T>(x), grid, x.cols,
           rows_of<T>(y), shape_of(y));
  });
}

}  // namespace cogserve::cuda
