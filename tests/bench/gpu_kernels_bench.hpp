// What the benchmarks of kernels share: a pool of inputs, the limits of the device, and a report
// against them.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "engine/backend/cuda/device_memory.hpp"
#include "engine/backend/cuda/error.hpp"
#include "engine/backend/cuda/matmul.hpp"
#include "engine/backend/cuda/paged_attention.hpp"
#include "engine/backend/cuda/quantized_layout.hpp"
#include "engine/base/check.hpp"
#include "engine/base/tensor.hpp"
#include "tests/bench/gpu_results.hpp"

namespace cogserve::cuda {

class KernelBench {
 public:
  KernelBench(int tries, bench::GpuResults* results);

  void measure_limits();
  void linear();
  void gated();
  void quantized();
  void attention();
  void paged_decode(int sequences);
  void paged_prefill(int64_t first, int64_t count);
  void rows();
  void pictures();
  void sampling(const char* name, float temperature);

 private:
  static constexpr size_t kPoolBytes = size_t{3} << 30;
  static constexpr size_t kOutputBytes = size_t{1} << 30;

  // bf16 numbers of about N(0, 1): what tensor cores multiply decides how fast they may go.
  void fill_pool();

  // Kernels run in a stream that waits for no other, and a copy from pageable memory may return
  // before the device has it.
  static void wait_for_copies() { check_cuda(cudaDeviceSynchronize(), "cudaDeviceSynchronize"); }

  // The i-th place of the pool for a matrix, never the one before.
  Tensor input(int i, int64_t rows, int64_t cols, DType dtype = DType::kBF16) const {
    const size_t bytes = (rows * cols * dtype_size(dtype) + 255) / 256 * 256;
    const size_t places = kPoolBytes / bytes;
    check(places > 0, "the pool is large enough");
    return Tensor::matrix(static_cast<std::byte*>(pool_.get()) + i % places * bytes, dtype, rows,
                          cols);
  }
  Tensor output(int64_t rows, int64_t cols, DType dtype = DType::kBF16, int i = 0) const {
    const size_t bytes = (rows * cols * dtype_size(dtype) + 255) / 256 * 256;
    check(bytes <= kOutputBytes, "the output is large enough");
    return Tensor::matrix(
        static_cast<std::byte*>(output_.get()) + i % (kOutputBytes / bytes) * bytes, dtype, rows,
        cols);
  }
  // A host array on the device until the bench ends.
  template <typename T>
  const T* on_device(const std::vector<T>& values) {
    arrays_.push_back(allocate_device(std::max<size_t>(values.size() * sizeof(T), 1)));
    check_cuda(cudaMemcpy(arrays_.back().get(), values.data(), values.size() * sizeof(T),
                          cudaMemcpyHostToDevice),
               "cudaMemcpy");
    wait_for_copies();
    return static_cast<const T*>(arrays_.back().get());
  }

  // Seconds of one call of `body(i)`, the i-th since the start: the best of `tries` batches of
  // calls.
  double time_calls(const std::function<void(int)>& body) const;
  // Times a call, which takes so many FLOP and moves so many bytes.
  void report(const std::string& name, double flop, double bytes,
              const std::function<void(int)>& body);

  void product(const char* name, int64_t rows, int64_t out, int64_t in, bool bias);
  void multiply(const Tensor& x, const Tensor& w, const void* bias, const Tensor& y);
  QuantizedMatrix matrix(const QuantizedLayout& layout, int i) const;
  void quantized_product(const std::string& name, const QuantizedLayout& layout, int64_t rows);
  PagedAttention paged(int64_t rows, const std::vector<int32_t>& tables);
  PagedAttention at_call(PagedAttention attention, int i, int64_t blocks) const;

  static constexpr int kHeads = 32, kKvHeads = 8, kHeadDim = 128;

  int tries_;
  bench::GpuResults& results_;
  Stream stream_;
  Matmul matmul_;
  DeviceMemory pool_;
  DeviceMemory output_;
  DeviceMemory unpacked_;
  std::vector<DeviceMemory> arrays_;
  double peak_bandwidth_ = 1;
  double peak_flops_ = 1;
  double launch_seconds_ = 0;
};

}  // namespace cogserve::cuda
