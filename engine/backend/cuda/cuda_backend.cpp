#include "engine/backend/cuda/cuda_backend.hpp"

#include <algorithm>
#include <charconv>
#include <cstring>

#include "engine/backend/cuda/dense_attention.hpp"
#include "engine/backend/cuda/device_code.hpp"
#include "engine/backend/cuda/elementwise.hpp"
#include "engine/backend/cuda/error.hpp"
#include "engine/backend/cuda/norms.hpp"
#include "engine/backend/cuda/own_memory.hpp"
#include "engine/backend/cuda/rope_kv.hpp"
#include "engine/backend/shape_checks.hpp"
#include "engine/base/check.hpp"
#include "engine/base/error.hpp"

namespace cogserve {
namespace {

constexpr int kMinimumMajor = 8;  // bf16 products and asynchronous copies

size_t stride_bytes(const Tensor& tensor) { return tensor.row_stride * dtype_size(tensor.dtype); }

// The <n> of "cuda:<n>", -1 for anything else.
int parse_ordinal(std::string_view device) {
  constexpr std::string_view kPrefix = "cuda:";
  if (!device.starts_with(kPrefix)) return -1;
  const std::string_view digits = device.substr(kPrefix.size());
  int ordinal = -1;
  const auto [end, error] = std::from_chars(digits.begin(), digits.end(), ordinal);
  return error == std::errc() && end == digits.end() && ordinal >= 0 ? ordinal : -1;
}

absl::Status device_error(const std::string& message) {
  return make_error(absl::StatusCode::kFailedPrecondition, "DEVICE", "device", message);
}

}  // namespace

absl::StatusOr<std::unique_ptr<CudaBackend>> CudaBackend::create(std::string_view device,
                                                                 DType activation) {
  check(activation == DType::kBF16 || activation == DType::kF16, "activations are bf16 or f16");
  const int ordinal = parse_ordinal(device);
  if (ordinal < 0) {
    return invalid_argument(
        "UNKNOWN_DEVICE", "device",
        "device is \"cpu\" or \"cuda:<n>\", got \"" + std::string(device) + "\"");
  }
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) {
    return device_error(cuda::describe_error("cudaGetDeviceCount", error));
  }
  if (ordinal >= count) {
    return invalid_argument("UNKNOWN_DEVICE", "device",
                            "there are " + std::to_string(count) + " CUDA devices, got \"" +
                                std::string(device) + "\"");
  }
  try {
    cudaDeviceProp properties;
    cuda::check_cuda(cudaGetDeviceProperties(&properties, ordinal), "cudaGetDeviceProperties");
    const std::string sm =
        "sm_" + std::to_string(properties.major) + std::to_string(properties.minor);
    if (properties.major < kMinimumMajor) {
      return device_error(std::string(properties.name) + " is " + sm + ", sm_80 is the least");
    }
    cuda::check_cuda(cudaSetDevice(ordinal), "cudaSetDevice");
    if (const cudaError_t error = cuda::find_device_code(); error != cudaSuccess) {
      return device_error(std::string(properties.name) + " is " + sm +
                          ", and this build has no code for it: " +
                          cuda::describe_error("cudaFuncGetAttributes", error));
    }
    std::string description = std::string(device) + " (" + properties.name + ", " + sm + ", " +
                              std::string(dtype_name(activation)) + ")";
    return std::unique_ptr<CudaBackend>(new CudaBackend(
        ordinal, activation, properties.multiProcessorCount, std::move(description)));
  } catch (const cuda::CudaError& error) {
    return device_error(error.what());
  }
}

CudaBackend::CudaBackend(int ordinal, DType activation, int processors, std::string description)
    : ordinal_(ordinal),
      activation_(activation),
      processors_(processors),
      description_(std::move(description)),
      staging_(&stream_),
      matmul_(activation),
      unpacked_(cuda::allocate_device(cuda::kUnpackedBytes)),
      attention_scratch_(cuda::allocate_device(cuda::kAttentionScratchBytes)),
      sampler_(&stream_, &staging_),
      pass_memory_(cuda::allocate_device(staging_.max_bytes())) {}

void CudaBackend::bind_thread() const {
  cuda::check_cuda(cudaSetDevice(ordinal_), "cudaSetDevice");
}

void CudaBackend::wait() {
  stream_.synchronize();
  pulse().beat();
}

CudaBackend::MemoryInfo CudaBackend::memory_info() const {
  MemoryInfo info;
  bind_thread();
  cuda::check_cuda(cudaMemGetInfo(&info.free, &info.total), "cudaMemGetInfo");
  return info;
}

int64_t CudaBackend::available_memory() const { return static_cast<int64_t>(memory_info().free); }

int64_t CudaBackend::total_memory() const { return static_cast<int64_t>(memory_info().total); }

absl::StatusOr<Buffer> CudaBackend::allocate_raw(size_t bytes) {
  bind_thread();
  void* memory = nullptr;
  const cudaError_t error = cudaMalloc(&memory, std::max<size_t>(bytes, 1));
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // it is not to be reported again by the next launch
    return make_error(absl::StatusCode::kResourceExhausted, "MEMORY", "",
                      "no " + std::to_string(bytes) + " bytes of device memory to be had");
  }
  cuda::check_cuda(error, "cudaMalloc");
  return Buffer(memory, bytes, [](void* data) { cudaFree(data); });
}

absl::StatusOr<Buffer> CudaBackend::allocate(size_t bytes) {
  absl::StatusOr<Buffer> buffer = allocate_raw(bytes);
  if (buffer.ok() && bytes > 0) {
    cuda::check_cuda(cudaMemsetAsync(buffer->data(), 0, bytes, stream_.get()), "cudaMemsetAsync");
  }
  return buffer;
}

void CudaBackend::upload(const void* host, const Tensor& dst) {
  bind_thread();
  if (dst.rows == 0 || dst.cols == 0) return;
  if (dst.rows == 1 || dst.row_stride == dst.cols) {
    write(dst.data, host, dst.rows * row_bytes(dst));
  } else {
    cuda::check_cuda(
        cudaMemcpy2DAsync(dst.data, stride_bytes(dst), host, row_bytes(dst), row_bytes(dst),
                          dst.rows, cudaMemcpyHostToDevice, stream_.get()),
        "cudaMemcpy2DAsync");
  }
  wait();
}

void CudaBackend::download(const Tensor& src, void* host) {
  bind_thread();
  if (src.rows == 0 || src.cols == 0) return;
  cuda::check_cuda(
      cudaMemcpy2DAsync(host, row_bytes(src), src.data, stride_bytes(src), row_bytes(src), src.rows,
                        cudaMemcpyDeviceToHost, stream_.get()),
      "cudaMemcpy2DAsync");
  wait();
}

void CudaBackend::synchronize() {
  bind_thread();
  wait();
}

void CudaBackend::write(void* to, const void* host, size_t bytes) {
  check_not_recording();
  staging_.write(to, bytes, [&](size_t offset, size_t count, std::byte* out) {
    std::memcpy(out, static_cast<const std::byte*>(host) + offset, count);
  });
}

void CudaBackend::copy(const Tensor& x, const Tensor& y) {
  check(is_float(x) && is_float(y) && same_shape(x, y), "copy: floats of the same shape");
  bind_thread();
  cuda::copy_rows(x, {}, y, stream_.get());
}

void CudaBackend::add(const Tensor& x, const Tensor& y) {
  check(is_activation(x) && is_activation(y) && same_shape(x, y),
        "add: activations of the same shape");
  bind_thread();
  cuda::add(x, y, stream_.get());
}

void CudaBackend::rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& y) {
  check(is_activation(x) && is_activation(y) && same_shape(x, y),
        "rms_norm: activations of the same shape");
  check(is_vector_for(weight, x), "rms_norm: weight is [1, n]");
  bind_thread();
  cuda::rms_norm(x, weight, eps, y, stream_.get());
}

void CudaBackend::add_rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& sum,
                               const Tensor& y) {
  check(is_activation(x) && is_activation(sum) && is_activation(y) && same_shape(x, sum) &&
            same_shape(x, y),
        "add_rms_norm: activations of the same shape");
  check(is_vector_for(weight, x), "add_rms_norm: weight is [1, n]");
  bind_thread();
  cuda::add_rms_norm(x, weight, eps, sum, y, stream_.get());
}

void CudaBackend::layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, float eps,
                             const Tensor& y) {
  check(is_activation(x) && is_activation(y) && same_shape(x, y),
        "layer_norm: activations of the same shape");
  check(is_vector_for(weight, x) && is_vector_for(bias, x), "layer_norm: parameters are [1, n]");
  bind_thread();
  cuda::layer_norm(x, weight, bias, eps, y, stream_.get());
}

void CudaBackend::add_layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias,
                                 float eps, const Tensor& y) {
  check(is_activation(x) && is_activation(y) && same_shape(x, y),
        "add_layer_norm: activations of the same shape");
  check(is_vector_for(weight, x) && is_vector_for(bias, x),
        "add_layer_norm: parameters are [1, n]");
  bind_thread();
  cuda::add_layer_norm(x, weight, bias, eps, y, stream_.get());
}

void CudaBackend::silu_mul(const Tensor& gate, const Tensor& up, const Tensor& y) {
  check(is_activation(gate) && is_activation(up) && is_activation(y), "silu_mul: activations");
  check(same_shape(gate, up) && same_shape(gate, y), "silu_mul: the same shape");
  bind_thread();
  cuda::silu_mul(gate, up, y, stream_.get());
}

void CudaBackend::gelu(const Tensor& x) {
  check(is_activation(x), "gelu: activations");
  bind_thread();
  cuda::gelu(x, stream_.get());
}

void CudaBackend::extract_patches(const Tensor& pixels, int size, int patch, const Tensor& y) {
  check(patch > 0 && size > 0 && size % patch == 0, "extract_patches: size is whole patches");
  const int64_t grid = size / patch;
  check(is_f32(pixels) && pixels.rows == 3 && pixels.cols == int64_t{size} * size,
        "extract_patches: pixels are [3, size * size]");
  check(is_activation(y) && y.rows == grid * grid && y.cols == int64_t{3} * patch * patch,
        "extract_patches: y is [grid^2, 3 * patch^2]");
  bind_thread();
  cuda::extract_patches(pixels, size, patch, y, stream_.get());
}

void CudaBackend::merge_2x2(const Tensor& x, int grid, const Tensor& y) {
  const int64_t cells = grid / 2;
  check(grid > 0 && grid % 2 == 0 && is_activation(x) && x.rows == int64_t{grid} * grid,
        "merge_2x2: x is [grid^2, c], grid even");
  check(is_activation(y) && y.rows == cells * cells && y.cols == 4 * x.cols,
        "merge_2x2: y is [(grid / 2)^2, 4c]");
  bind_thread();
  cuda::merge_2x2(x, grid, y, stream_.get());
}

}  // namespace cogserve
