// y = x W^T of the CUDA backend against plain loops, and bit for bit against itself.
#include <cmath>

#include "tests/engine/cuda_test_tools.hpp"

namespace cogserve {
namespace {

using testing::CudaTest;
using testing::DeviceMatrix;
using testing::Matrix;
using testing::StoredTensor;

struct Shape {
  int64_t out;
  int64_t in;
  int64_t gap;  // of x and y
};
const Shape kShapes[] = {{1, 1, 0}, {5, 3, 1}, {16, 8, 0}, {17, 31, 3}, {49, 304, 8}, {7, 1032, 0}};

class CudaLinear : public CudaTest {
 protected:
  // Compares with f64 sums over what was stored. Sums are f32: their error grows with the length.
  void expect_product(const Matrix& x, const Matrix& w, const Matrix* bias, const Matrix& y,
                      double rounding) {
    for (int64_t r = 0; r < y.rows(); ++r) {
      for (int64_t o = 0; o < y.cols(); ++o) {
        double sum = bias == nullptr ? 0.0 : bias->at(0, o);
        double magnitude = std::fabs(sum);
        for (int64_t k = 0; k < x.cols(); ++k) {
          sum += static_cast<double>(x.at(r, k)) * w.at(o, k);
          magnitude += std::fabs(static_cast<double>(x.at(r, k)) * w.at(o, k));
        }
        ASSERT_NEAR(y.at(r, o), sum, rounding * std::fabs(sum) + 2e-6 * magnitude + 1e-7)
            << x.rows() << " rows, " << y.cols() << " x " << x.cols();
      }
    }
  }

  Matrix rounded(const Matrix& values) { return put(values).read(); }
};
COGSERVE_CUDA_SUITE(CudaLinear);

TEST_P(CudaLinear, equals_a_plain_loop_for_odd_shapes) {
  for (const int64_t rows : {1, 2, 3, 8, 9, 40}) {
    for (const auto& [out, in, gap] : kShapes) {
      const DeviceMatrix x = put(Matrix::random(rows, in, rows + in), gap);
      const Matrix w = rounded(Matrix::random(out, in, out));
      const Weight weight = *backend().load_weight(dense_weight(StoredTensor(w, dtype()).host()));
      EXPECT_EQ(weight.dtype, dtype());
      // cuBLASLt adds biases in the activations' dtype: exact for those of a 16-bit checkpoint.
      const Matrix bias = rounded(Matrix::random(1, out, 7));
      const Parameter bias_vector = load_vector(bias);
      const DeviceMatrix y = put(Matrix(rows, out), gap);
      const DeviceMatrix y_f32 = put_f32(Matrix(rows, out), gap);
      for (const Matrix* added : {static_cast<const Matrix*>(nullptr), &bias}) {
        const Tensor* const bias_tensor = added == nullptr ? nullptr : &bias_vector.tensor;
        backend().linear(x.tensor(), weight, bias_tensor, y.tensor());
        expect_product(x.read(), w, added, y.read(), unit());
        backend().linear(x.tensor(), weight, bias_tensor, y_f32.tensor());
        expect_product(x.read(), w, added, y_f32.read(), 0.0);
      }
    }
  }
}

TEST_P(CudaLinear, takes_checkpoints_of_every_dtype) {
  const DeviceMatrix x = put(Matrix::random(3, 64, 1));
  for (const DType stored_dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    const StoredTensor stored(Matrix::random(10, 64, 2), stored_dtype);
    Matrix values(10, 64);
    for (int64_t r = 0; r < 10; ++r) {
      for (int64_t c = 0; c < 64; ++c) values.at(r, c) = static_cast<float>(stored.at(r, c));
    }
    const Weight weight = *backend().load_weight(dense_weight(stored.host()));
    const DeviceMatrix y = put_f32(Matrix(3, 10));
    backend().linear(x.tensor(), weight, nullptr, y.tensor());
    expect_product(x.read(), rounded(values), nullptr, y.read(), 0.0);
  }
}

TEST_P(CudaLinear, gives_each_of_up_to_8_rows_the_bits_it_has_alone) {
  for (const int64_t in : {520, 77}) {
    const DeviceMatrix x = put(Matrix::random(8, in, 3));
    const Weight weight = *backend().load_weight(
        dense_weight(StoredTensor(Matrix::random(13, in, 1), dtype()).host()));
    const Parameter bias = load_vector(Matrix::random(1, 13, 2));
    const DeviceMatrix alone = put_f32(Matrix(8, 13));
    for (int64_t r = 0; r < 8; ++r) {
      backend().linear(x.tensor().slice_rows(r, 1), weight, &bias.tensor,
                       alone.tensor().slice_rows(r, 1));
    }
    const Matrix expected = alone.read();
    for (int64_t rows = 2; rows <= 8; ++rows) {
      const DeviceMatrix together = put_f32(Matrix(rows, 13));
      backend().linear(x.tensor().slice_rows(8 - rows, rows), weight, &bias.tensor,
                       together.tensor());
      const Matrix out = together.read();
      for (int64_t r = 0; r < rows; ++r) {
        ASSERT_TRUE(testing::same_bits(out.tensor().row<float>(r),
                                       expected.tensor().row<float>(8 - rows + r), 13))
            << "row " << r << " of " << rows;
      }
    }
  }
}

TEST_P(CudaLinear, gated_has_the_bits_of_two_products_and_a_gate) {
  for (const int64_t rows : {1, 2, 3, 8, 9}) {
    for (const auto& [out, in, gap] : kShapes) {
      const auto weight = [&](uint32_t seed) {
        return *backend().load_weight(
            dense_weight(StoredTensor(Matrix::random(out, in, seed), dtype()).host()));
      };
      const Weight gate = weight(1), up = weight(2);
      const DeviceMatrix x = put(Matrix::random(rows, in, rows + in), gap);
      expect_gated(x.tensor(), gate, up);
    }
  }
}

}  // namespace
}  // namespace cogserve
