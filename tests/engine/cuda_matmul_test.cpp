// The matrix products of the CUDA backend that are cuBLASLt's, or the emulator's in its place,
// against loops in double precision.
#include <cmath>
#include <optional>
#include <string>

#include "engine/backend/cuda/matmul.hpp"
#include "tests/engine/cuda_test_tools.hpp"

namespace cogserve {
namespace {

using testing::CudaTest;
using testing::DeviceMatrix;
using testing::Matrix;

class CudaMatmul : public CudaTest {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    stream_.emplace();
    matmul_.emplace(dtype());
  }

  // Whether the library has an algorithm for it; y is there then. The emulator's has for all of
  // these tests, a GPU's need have none for rows that are not aligned to 16 bytes.
  bool may_have_none(int64_t alignment) {
    return alignment % 16 != 0 && backend().description().find("emulated") == std::string::npos;
  }
  bool run(const Tensor& x, const Tensor& w, const void* bias, const Tensor& y) {
    backend().synchronize();
    const bool done = matmul_->run(x, w, bias, y, *stream_);
    stream_->synchronize();
    return done;
  }

  DeviceMatrix put_as(DType type, const Matrix& values, int64_t gap = 0) {
    return DeviceMatrix(backend(), values, type, gap);
  }

  // What columns [first, first + w.rows()) of y should be. Sums are f32, and rounded once.
  void expect_product(const Matrix& x, const Matrix& w, const Matrix* bias, const Matrix& y,
                      int64_t first, DType type) {
    const double rounding = type == DType::kF32 ? 0.0 : unit();
    for (int64_t r = 0; r < x.rows(); ++r) {
      for (int64_t o = 0; o < w.rows(); ++o) {
        double sum = bias == nullptr ? 0.0 : bias->at(0, o);
        double magnitude = std::fabs(sum);
        for (int64_t k = 0; k < x.cols(); ++k) {
          const double product = static_cast<double>(x.at(r, k)) * w.at(o, k);
          sum += product;
          magnitude += std::fabs(product);
        }
        ASSERT_NEAR(y.at(r, first + o), sum, rounding * std::fabs(sum) + 2e-6 * magnitude + 1e-7)
            << "row " << r << " of " << x.rows() << ", output " << o;
      }
    }
  }

  // With and without a bias, to y of both types. Rows of x and y are `gap` wider than they are.
  void check_products(int64_t rows, int64_t out, int64_t in, int64_t gap) {
    const DeviceMatrix x = put(Matrix::random(rows, in, 1), gap);
    const DeviceMatrix w = put(Matrix::random(out, in, 2));
    for (const DType type : {dtype(), DType::kF32}) {
      const DeviceMatrix bias = put_as(type, Matrix::random(1, out, 3));
      const Matrix bias_values = bias.read();
      for (const bool biased : {false, true}) {
        const DeviceMatrix y = put_as(type, Matrix(rows, out), gap);
        if (!run(x.tensor(), w.tensor(), biased ? bias.tensor().data : nullptr, y.tensor())) {
          ASSERT_TRUE(may_have_none((in | out | gap) * 2));
          continue;
        }
        expect_product(x.read(), w.read(), biased ? &bias_values : nullptr, y.read(), 0, type);
      }
    }
  }

 private:
  std::optional<cuda::Stream> stream_;
  std::optional<cuda::Matmul> matmul_;
};
COGSERVE_CUDA_SUITE(CudaMatmul);

TEST_P(CudaMatmul, equals_a_loop_in_double_precision) {
  check_products(1, 8, 16, 0);
  check_products(17, 24, 64, 8);
  check_products(130, 33, 46, 2);
  check_products(130, 16, 514, 0);
  check_products(1025, 9, 30, 0);
  check_products(2000, 8, 32, 1);
}

// Rows of one class share what was chosen for the first of them.
TEST_P(CudaMatmul, equals_a_loop_for_all_rows_of_a_class) {
  for (const int64_t rows : {16, 9, 13, 16, 10}) check_products(rows, 24, 160, 0);
}

// Rows begin at multiples of 16, 8, 4 and 2 bytes and no more.
TEST_P(CudaMatmul, takes_every_alignment) {
  constexpr int64_t kRows = 17, kOut = 24, kIn = 64;
  const DeviceMatrix w = put(Matrix::random(kOut, kIn, 2));
  const DeviceMatrix bias = put(Matrix::random(1, 2 * kOut, 3));
  for (const int64_t first : {0, 8, 4, 2, 1}) {
    const DeviceMatrix x = put(Matrix::random(kRows, kIn + 8, 4));
    const DeviceMatrix y = put(Matrix::random(kRows, kOut + 8, 5));
    const Matrix before = y.read();
    if (!run(x.tensor().slice_cols(first, kIn), w.tensor(),
             bias.tensor().slice_cols(first, kOut).data, y.tensor().slice_cols(first, kOut))) {
      ASSERT_TRUE(may_have_none(first * 2));
      continue;
    }
    const Matrix all = x.read(), biases = bias.read();
    Matrix values(kRows, kIn), bias_values(1, kOut);
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t k = 0; k < kIn; ++k) values.at(r, k) = all.at(r, first + k);
    }
    for (int64_t o = 0; o < kOut; ++o) bias_values.at(0, o) = biases.at(0, first + o);
    const Matrix out = y.read();
    expect_product(values, w.read(), &bias_values, out, first, dtype());
    for (int64_t c = 0; c < kOut + 8; ++c) {
      if (c >= first && c < first + kOut) continue;
      EXPECT_EQ(out.at(0, c), before.at(0, c)) << "beside the product, " << c;
    }
  }
}

// The algorithm that was timed last is not the one that was chosen.
TEST_P(CudaMatmul, leaves_the_same_bits_after_timing_as_later) {
  const DeviceMatrix x = put(Matrix::random(40, 512, 1));
  const DeviceMatrix w = put(Matrix::random(24, 512, 2));
  const DeviceMatrix first = put_f32(Matrix(40, 24));
  const DeviceMatrix second = put_f32(Matrix(40, 24));
  ASSERT_TRUE(run(x.tensor(), w.tensor(), nullptr, first.tensor()));
  ASSERT_TRUE(run(x.tensor(), w.tensor(), nullptr, second.tensor()));
  EXPECT_TRUE(testing::same_bits(first.read(), second.read()));
}

}  // namespace
}  // namespace cogserve
