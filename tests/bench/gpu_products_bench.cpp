// The products of the decoder and of the vision tower.
#include "engine/backend/cuda/gemv.hpp"
#include "engine/backend/cuda/own_memory.hpp"
#include "engine/backend/cuda/quantized.hpp"
#include "tests/bench/gpu_kernels_bench.hpp"

namespace cogserve::cuda {

namespace {

QuantizedLayout int4_layout(int64_t out, int64_t in) {
  return {
      .format = WeightFormat::kInt4, .out = out, .in = in, .group_size = 128, .half_scales = true};
}

}  // namespace

// The i-th place of the pool as a quantised matrix of any codes.
QuantizedMatrix KernelBench::matrix(const QuantizedLayout& layout, int i) const {
  const auto elements = static_cast<int64_t>(layout.bytes() / sizeof(BFloat16));
  return QuantizedMatrix(layout, input(i, 1, elements).data, {});
}

// Few rows by the backend's own kernel, more by cuBLASLt, as CudaBackend::linear has it.
void KernelBench::multiply(const Tensor& x, const Tensor& w, const void* bias, const Tensor& y) {
  check(bias == nullptr || x.rows > kGemvRows, "only products of many rows have a bias here");
  if (x.rows <= kGemvRows) return gemv(x, w, nullptr, y, stream_.get());
  check(matmul_.run(x, w, bias, y, stream_), "cuBLASLt has an algorithm");
}

void KernelBench::product(const char* name, int64_t rows, int64_t out, int64_t in, bool bias) {
  const DType y_dtype = out > 100'000 ? DType::kF32 : DType::kBF16;
  const Tensor y = output(rows, out, y_dtype);
  const double bytes = 2.0 * (out * in + rows * in) + dtype_size(y_dtype) * double(rows) * out;
  const Tensor x = input(0, rows, in);
  const Tensor added = input(0, 1, out, y_dtype);
  report(std::string(name) + "_" + std::to_string(rows), 2.0 * rows * out * in, bytes,
         [&](int i) { multiply(x, input(i, out, in), bias ? added.data : nullptr, y); });
}

// By the kernel for few rows, and by unpacking the matrix for cuBLASLt: kQuantizedRows says up to
// which number of rows the backend takes the first way. Both are judged by the bytes of the first.
void KernelBench::quantized_product(const std::string& name, const QuantizedLayout& layout,
                                    int64_t rows) {
  const Tensor x = input(0, rows, layout.in);
  const Tensor y = output(rows, layout.out);
  const double flop = 2.0 * rows * layout.out * layout.in;
  const double bytes = layout.bytes() + 2.0 * rows * (layout.in + layout.out);
  const std::string suffix = "_" + std::to_string(rows);
  report(name + suffix, flop, bytes,
         [&](int i) { quantized_matmul(x, matrix(layout, i), nullptr, y, stream_.get()); });
  const int64_t room = kUnpackedBytes / sizeof(BFloat16) / layout.in / kTileOuts * kTileOuts;
  report(name + "_unpacked" + suffix, flop, bytes, [&](int i) {
    for (int64_t first = 0; first < layout.out; first += room) {
      const int64_t outs = std::min(room, layout.out - first);
      const Tensor unpacked = Tensor::matrix(unpacked_.get(), DType::kBF16, outs, layout.in);
      dequantize(matrix(layout, i), first, unpacked, stream_.get());
      multiply(x, unpacked, nullptr, y.slice_cols(first, outs));
    }
  });
}

void KernelBench::quantized() {
  const QuantizedLayout int4 = int4_layout(14336, 4096);
  const QuantizedLayout int8 = {
      .format = WeightFormat::kInt8, .out = 14336, .in = 4096, .group_size = 4096};
  for (const int64_t rows : {1, 8, 16, 32, 64}) {
    quantized_product("int4_gate", int4, rows);
    quantized_product("int8_gate", int8, rows);
  }
}

// A layer's gate and up, and what becomes of both.
void KernelBench::gated() {
  constexpr int64_t kOut = 14336, kIn = 4096;
  const QuantizedLayout int4 = int4_layout(kOut, kIn);
  for (const int64_t rows : {1, 8, 32, 64}) {
    const Tensor x = input(0, rows, kIn), y = output(rows, kOut);
    const std::string suffix = "_" + std::to_string(rows);
    const double flop = 4.0 * rows * kOut * kIn;
    const double x_and_y = 2.0 * rows * (kIn + kOut);
    if (rows <= kGemvRows) {
      report("decoder_gate_and_up" + suffix, flop, 4.0 * kOut * kIn + x_and_y, [&](int i) {
        gated_gemv(x, input(2 * i, kOut, kIn), input(2 * i + 1, kOut, kIn), y, stream_.get());
      });
    }
    report("int4_gate_and_up" + suffix, flop, 2.0 * int4.bytes() + x_and_y, [&](int i) {
      gated_quantized_matmul(x, matrix(int4, 2 * i), matrix(int4, 2 * i + 1), y, stream_.get());
    });
  }
}

void KernelBench::linear() {
  for (const int64_t rows : {1, 8, 16, 32, 64, 512, 2305}) {
    product("decoder_qkv", rows, 6144, 4096, false);
    product("decoder_dense", rows, 4096, 4096, false);
    product("decoder_gate", rows, 14336, 4096, false);
    product("decoder_down", rows, 4096, 14336, false);
  }
  for (const int64_t rows : {1, 8, 64}) product("head", rows, 128256, 4096, false);
  product("tower_qkv", 9217, 5376, 1792, true);
  for (const int64_t rows : {1024, 9217}) {
    product("tower_dense", rows, 1792, 1792, true);
    product("tower_fc1", rows, 15360, 1792, true);
    product("tower_fc2", rows, 1792, 15360, true);
  }
}

}  // namespace cogserve::cuda
