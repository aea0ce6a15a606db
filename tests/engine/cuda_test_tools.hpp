// Matrices in the memory of a CUDA backend, and the backend itself, for the tests of its
// operations.
//
// The same tests are built twice: against the real backend, where they need a GPU and say so if
// there is none, and against the emulator (tests/engine/cuda_emulator), where they run everywhere.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "engine/backend/cuda/cuda_backend.hpp"
#include "tests/engine/cpu_test_tools.hpp"
#include "tests/engine/device_presence.hpp"

namespace cogserve::testing {

// The distance of 1 from the next number, which bounds the relative error of two roundings.
inline double unit_of(DType dtype) { return dtype == DType::kBF16 ? 0x1p-8 : 0x1p-11; }

inline uint16_t bits_of(float value, DType dtype) {
  if (std::isnan(value)) return dtype == DType::kBF16 ? 0x7fc0 : 0x7e00;
  return dtype == DType::kBF16 ? to_bfloat16(value).bits : to_float16(value).bits;
}

inline float value_of(uint16_t bits, DType dtype) {
  return dtype == DType::kBF16 ? to_float(BFloat16{bits}) : to_float(Float16{bits});
}

// A matrix of 16-bit floats or f32 on the device. Rows may be wider than their columns; the space
// between holds kGap.
class DeviceMatrix {
 public:
  // The numbers of `values`, rounded to `dtype`.
  DeviceMatrix(CudaBackend& backend, const Matrix& values, DType dtype, int64_t gap = 0)
      : backend_(&backend),
        rows_(values.rows()),
        cols_(values.cols()),
        stride_(cols_ + gap),
        dtype_(dtype),
        memory_(*backend.allocate(rows_ * stride_ * dtype_size(dtype))) {
    std::vector<std::byte> bytes(rows_ * stride_ * dtype_size(dtype));
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t c = 0; c < stride_; ++c) {
        put(bytes, r * stride_ + c, c < cols_ ? values.at(r, c) : Matrix::kGap);
      }
    }
    backend.upload(bytes.data(), everything());
  }

  Tensor tensor() const { return {memory_.data(), dtype_, rows_, cols_, stride_}; }

  // What is there now. Fails the test if a gap was written to.
  Matrix read() const {
    std::vector<std::byte> bytes(rows_ * stride_ * dtype_size(dtype_));
    backend_->download(everything(), bytes.data());
    Matrix values(rows_, cols_);
    const float gap =
        dtype_ == DType::kF32 ? Matrix::kGap : value_of(bits_of(Matrix::kGap, dtype_), dtype_);
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t c = 0; c < stride_; ++c) {
        const float value = get(bytes, r * stride_ + c);
        if (c < cols_) {
          values.at(r, c) = value;
        } else {
          EXPECT_EQ(value, gap) << "gap of row " << r << " was written to";
        }
      }
    }
    return values;
  }

 private:
  Tensor everything() const { return Tensor::matrix(memory_.data(), dtype_, rows_, stride_); }

  void put(std::vector<std::byte>& bytes, int64_t i, float value) const {
    if (dtype_ == DType::kF32) {
      std::memcpy(&bytes[i * 4], &value, 4);
      return;
    }
    const uint16_t bits = bits_of(value, dtype_);
    std::memcpy(&bytes[i * 2], &bits, 2);
  }

  float get(const std::vector<std::byte>& bytes, int64_t i) const {
    if (dtype_ == DType::kF32) {
      float value;
      std::memcpy(&value, &bytes[i * 4], 4);
      return value;
    }
    uint16_t bits;
    std::memcpy(&bits, &bytes[i * 2], 2);
    return value_of(bits, dtype_);
  }

  CudaBackend* backend_;
  int64_t rows_;
  int64_t cols_;
  int64_t stride_;
  DType dtype_;
  Buffer memory_;
};

// Tests of both activation dtypes on one backend, if there is one.
class CudaTest : public ::testing::TestWithParam<DType> {
 protected:
  void SetUp() override {
    auto made = CudaBackend::create("cuda:0", GetParam());
    if (!made.ok()) return device_presence().missing("cuda:0", made.status());
    device_presence().found();
    backend_ = *std::move(made);
  }

  CudaBackend& backend() { return *backend_; }
  DType dtype() const { return GetParam(); }
  double unit() const { return unit_of(GetParam()); }
  DeviceMatrix put(const Matrix& values, int64_t gap = 0) {
    return DeviceMatrix(*backend_, values, GetParam(), gap);
  }
  DeviceMatrix put_f32(const Matrix& values, int64_t gap = 0) {
    return DeviceMatrix(*backend_, values, DType::kF32, gap);
  }
  // A vector as load_vector keeps it.
  Parameter load_vector(const Matrix& values) {
    return *backend_->load_vector(StoredTensor(values, DType::kF32).host());
  }
  // That gated_linear, by whichever kernel, has the bits of what it stands for.
  void expect_gated(const Tensor& x, const Weight& gate, const Weight& up) {
    const Matrix empty(x.rows, gate.out_features);
    const DeviceMatrix scratch = put(empty, 3), expected = put(empty, 3), y = put(empty, 3);
    backend_->Backend::gated_linear(x, gate, up, scratch.tensor(), expected.tensor());
    backend_->gated_linear(x, gate, up, scratch.tensor(), y.tensor());
    EXPECT_TRUE(same_bits(y.read(), expected.read()))
        << x.rows << " rows, " << gate.out_features << " x " << gate.in_features;
  }

 private:
  std::unique_ptr<CudaBackend> backend_;
};

inline std::string dtype_test_name(const ::testing::TestParamInfo<DType>& info) {
  return std::string(dtype_name(info.param));
}

}  // namespace cogserve::testing

// Both activation dtypes for a suite of tests.
#define COGSERVE_CUDA_SUITE(suite)                                                      \
  INSTANTIATE_TEST_SUITE_P(Dtypes, suite, ::testing::Values(DType::kBF16, DType::kF16), \
                           cogserve::testing::dtype_test_name)
