// Tensors with a home, random numbers and the run of every SIMD target, for the tests of the CPU
// backend.
#pragma once

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "engine/backend/cpu/cpu_backend.hpp"
#include "engine/base/dtype.hpp"
#include "engine/base/tensor.hpp"

namespace cogserve::testing {

// A row-major f32 matrix that owns its numbers. Rows may be wider than their columns, to catch
// code that takes the stride for the width; the space between holds `kGap`.
class Matrix {
 public:
  static constexpr float kGap = 777.0f;

  Matrix(int64_t rows, int64_t cols, int64_t gap = 0)
      : rows_(rows), cols_(cols), stride_(cols + gap), values_(rows * stride_, kGap) {}

  static Matrix random(int64_t rows, int64_t cols, uint32_t seed, int64_t gap = 0) {
    Matrix matrix(rows, cols, gap);
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) matrix.at(r, c) = normal(generator);
    }
    return matrix;
  }

  float& at(int64_t r, int64_t c) { return values_[r * stride_ + c]; }
  float at(int64_t r, int64_t c) const { return values_[r * stride_ + c]; }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }

  // The kernels take tensors as inputs and outputs alike, so this view is writable.
  Tensor tensor() const {
    return {const_cast<float*>(values_.data()), DType::kF32, rows_, cols_, stride_};
  }

  bool gaps_untouched() const {
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t c = cols_; c < stride_; ++c) {
        if (values_[r * stride_ + c] != kGap) return false;
      }
    }
    return true;
  }

 private:
  int64_t rows_;
  int64_t cols_;
  int64_t stride_;
  std::vector<float> values_;
};

inline bool same_bits(const float* a, const float* b, int64_t n) {
  return std::memcmp(a, b, n * sizeof(float)) == 0;
}

inline bool same_bits(const Matrix& a, const Matrix& b) {
  for (int64_t r = 0; r < a.rows(); ++r) {
    if (!same_bits(a.tensor().row<float>(r), b.tensor().row<float>(r), a.cols())) return false;
  }
  return true;
}

// A checkpoint tensor of any float type that owns its bytes.
class StoredTensor {
 public:
  StoredTensor(const Matrix& values, DType dtype) : dtype_(dtype) {
    shape_ = {values.rows(), values.cols()};
    for (int64_t r = 0; r < values.rows(); ++r) {
      for (int64_t c = 0; c < values.cols(); ++c) push(values.at(r, c));
    }
    const HostTensor stored = host();
    for (int64_t i = 0; i < stored.elements(); ++i) values_.push_back(host_value(stored, i));
  }

  HostTensor host() const { return {bytes_.data(), dtype_, shape_}; }
  // What is stored, exactly.
  double at(int64_t r, int64_t c) const { return values_[r * shape_[1] + c]; }

 private:
  void push(float value) {
    std::byte raw[sizeof(float)];
    if (dtype_ == DType::kF32) std::memcpy(raw, &value, sizeof value);
    if (dtype_ == DType::kBF16) {
      const BFloat16 half = to_bfloat16(value);
      std::memcpy(raw, &half, sizeof half);
    }
    if (dtype_ == DType::kF16) {
      const Float16 half = to_float16(value);
      std::memcpy(raw, &half, sizeof half);
    }
    bytes_.insert(bytes_.end(), raw, raw + dtype_size(dtype_));
  }

  DType dtype_;
  std::vector<int64_t> shape_;
  std::vector<std::byte> bytes_;
  std::vector<double> values_;
};

// A draw whose tokens are wanted at once.
inline void sample(Backend& backend, const Tensor& logits, std::span<const SampleRow> rows,
                   std::span<SampledToken> sampled) {
  backend.start_sampling(logits, rows);
  backend.collect(sampled);
}

}  // namespace cogserve::testing
