// Kernels for quantised weights against the formats' definition, and bit for bit against
// themselves.
#include "engine/backend/cuda/quantized.hpp"

#include <cmath>
#include <optional>

#include "engine/backend/cuda/weight_memory.hpp"
#include "tests/engine/cuda_test_tools.hpp"
#include "tests/engine/random_weight.hpp"

namespace cogserve {
namespace {

using testing::CudaTest;
using testing::DeviceMatrix;
using testing::Matrix;
using testing::RandomWeight;

struct Shape {
  WeightFormat format;
  int64_t out;
  int64_t in;
  int64_t group_size;
  bool zeros;
  bool half_scales;
};

const Shape kShapes[] = {
    {WeightFormat::kInt4, 16, 64, 64, false, true},
    {WeightFormat::kInt4, 37, 320, 128, false, true},  // the last group is short
    {WeightFormat::kInt4, 5, 1152, 128, true, true},   // more spans than warps
    {WeightFormat::kInt4, 48, 192, 64, true, false},
    {WeightFormat::kInt4, 9, 90, 128, false, true},  // one group, no whole tile
    {WeightFormat::kInt4, 3, 2, 128, false, true},
    {WeightFormat::kCodebook4, 33, 256, 64, false, false},
    {WeightFormat::kInt4, 20, 1216, 192, true, true},    // groups of three tiles
    {WeightFormat::kInt4, 33, 2368, 256, false, false},  // of four; 37 tiles
    {WeightFormat::kCodebook4, 16, 70, 128, false, false},
    {WeightFormat::kCodebook4, 20, 1088, 64, false, false},
    {WeightFormat::kInt8, 40, 384, 384, false, false},
    {WeightFormat::kInt8, 7, 1027, 1027, false, false},  // odd rows
    {WeightFormat::kInt8, 1, 3, 3, false, false},
    {WeightFormat::kInt8, 18, 1216, 1216, false, true},
};

// Groups that no tile is whole in: for unpacking only.
const Shape kSmallGroups[] = {
    {WeightFormat::kInt4, 20, 128, 32, true, true},
    {WeightFormat::kInt4, 37, 192, 16, false, true},
    {WeightFormat::kInt4, 18, 128, 12, true, false},
    {WeightFormat::kInt4, 20, 192, 24, true, false},
    {WeightFormat::kInt4, 20, 128, 8, false, true},
    {WeightFormat::kCodebook4, 23, 132, 32, false, false},
};

// Elements are rounded to `dtype`.
RandomWeight random_weight(const Shape& shape, DType dtype, uint32_t seed = 0) {
  return {{.format = shape.format,
           .group_size = shape.group_size,
           .has_zeros = shape.zeros,
           .dtype = dtype,
           .half_scales = shape.half_scales},
          shape.out,
          shape.in,
          static_cast<uint32_t>(shape.out * 1000 + shape.in) + seed};
}

class CudaQuantized : public CudaTest {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (!IsSkipped() && !HasFatalFailure()) stream_.emplace();
  }

  // Any bytes, on the device, in whole words.
  Buffer put_bytes(const void* host, size_t bytes) {
    std::vector<int32_t> words((bytes + 3) / 4);
    std::memcpy(words.data(), host, bytes);
    Buffer buffer = *backend().allocate(words.size() * 4);
    backend().upload(words.data(), Tensor::matrix(buffer.data(), DType::kI32, 1, words.size()));
    return buffer;
  }

  cuda::QuantizedMatrix pack(const RandomWeight& weight) {
    const HostWeight& host = weight.host();
    const cuda::QuantizedLayout layout = cuda::layout_of(host);
    const size_t values = host.out_features * host.groups();
    const Buffer codes = put_bytes(host.codes, weight.code_bytes());
    const Buffer scales = put_bytes(host.scales, values * sizeof(float));
    const Buffer zeros = host.has_zeros ? put_bytes(host.zeros, values) : Buffer();
    storage_.push_back(*backend().allocate(layout.bytes()));
    backend().synchronize();  // which works on a stream of its own
    // In two parts, as a large matrix comes in many.
    const int64_t row_bytes = static_cast<int64_t>(weight.code_bytes()) / host.out_features;
    const int64_t first_part = std::min<int64_t>(cuda::kTileOuts, host.out_features);
    for (int64_t first = 0; first < host.out_features; first += first_part) {
      const int64_t rows = first == 0 ? first_part : host.out_features - first;
      const int64_t groups = first * host.groups();
      cuda::pack_quantized(
          layout,
          {first, rows, static_cast<const uint8_t*>(codes.data()) + first * row_bytes,
           static_cast<const float*>(scales.data()) + groups,
           host.has_zeros ? static_cast<const uint8_t*>(zeros.data()) + groups : nullptr},
          storage_.back().data(), stream_->get());
      if (first > 0) break;
    }
    stream_->synchronize();
    return cuda::QuantizedMatrix(layout, storage_.back().data(), host.codebook);
  }

  void multiply(const Tensor& x, const cuda::QuantizedMatrix& w, const Tensor* bias,
                const Tensor& y) {
    cuda::quantized_matmul(x, w, bias, y, stream_->get());
    stream_->synchronize();
  }

  const cuda::Stream& stream() const { return *stream_; }

 private:
  std::optional<cuda::Stream> stream_;
  std::vector<Buffer> storage_;
};
COGSERVE_CUDA_SUITE(CudaQuantized);

TEST_P(CudaQuantized, unpacked_weights_are_those_of_the_definition) {
  std::vector<Shape> shapes(std::begin(kShapes), std::end(kShapes));
  shapes.insert(shapes.end(), std::begin(kSmallGroups), std::end(kSmallGroups));
  for (const Shape& shape : shapes) {
    const RandomWeight weight = random_weight(shape, dtype());
    const cuda::QuantizedMatrix packed = pack(weight);
    EXPECT_EQ(packed.layout.half_scales, shape.half_scales);
    for (int64_t first = 0; first < shape.out; first += 32) {
      const int64_t rows = std::min<int64_t>(32, shape.out - first);
      const DeviceMatrix y = put(Matrix(rows, shape.in));
      cuda::dequantize(packed, first, y.tensor(), stream().get());
      stream().synchronize();
      const Matrix values = y.read();
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < shape.in; ++c) {
          ASSERT_EQ(values.at(r, c), weight_value(weight.host(), first + r, c))
              << shape.out << " x " << shape.in << " at " << first + r << ", " << c;
        }
      }
    }
  }
}

TEST_P(CudaQuantized, products_are_those_of_a_plain_loop) {
  for (const Shape& shape : kShapes) {
    const RandomWeight weight =
        random_weight(shape, DType::kF32);  // scales are not rounded into the weights
    const RandomWeight rounded = random_weight(shape, dtype());  // but those of a codebook
    const bool codebook = shape.format == WeightFormat::kCodebook4;
    const HostWeight& host = codebook ? rounded.host() : weight.host();
    const cuda::QuantizedMatrix packed = pack(weight);
    for (const int64_t rows : {1, 3, 8, 9, 17, 40, 70}) {
      const DeviceMatrix x = put(Matrix::random(rows, shape.in, rows), rows % 2 * 4);
      const Matrix bias = Matrix::random(1, shape.out, 7);
      const Parameter bias_vector = load_vector(bias);
      const DeviceMatrix y = put_f32(Matrix(rows, shape.out), 3);
      const DeviceMatrix y16 = put(Matrix(rows, shape.out), 1);
      multiply(x.tensor(), packed, &bias_vector.tensor, y.tensor());
      multiply(x.tensor(), packed, nullptr, y16.tensor());
      const Matrix inputs = x.read();
      const Matrix out = y.read();
      const Matrix out16 = y16.read();
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t o = 0; o < shape.out; ++o) {
          double sum = 0;
          double magnitude = 0;
          for (int64_t k = 0; k < shape.in; ++k) {
            const double product = double{inputs.at(r, k)} * weight_value(host, o, k);
            sum += product;
            magnitude += std::fabs(product);
          }
          const double slack = 2e-6 * magnitude + 1e-7;
          ASSERT_NEAR(out.at(r, o), sum + bias.at(0, o), slack) << rows << " rows, " << shape.in;
          ASSERT_NEAR(out16.at(r, o), sum, slack + unit() * std::fabs(sum));
        }
      }
    }
  }
}

TEST_P(CudaQuantized, a_row_has_the_bits_that_it_has_alone) {
  for (const WeightFormat format :
       {WeightFormat::kInt4, WeightFormat::kCodebook4, WeightFormat::kInt8}) {
    const Shape shape{format, 20, 640, format == WeightFormat::kInt8 ? 640 : 64, false, true};
    const cuda::QuantizedMatrix packed = pack(random_weight(shape, dtype()));
    const DeviceMatrix x = put(Matrix::random(64, shape.in, 5));
    const DeviceMatrix alone = put_f32(Matrix(64, shape.out));
    for (int64_t r = 0; r < 64; ++r) {
      multiply(x.tensor().slice_rows(r, 1), packed, nullptr, alone.tensor().slice_rows(r, 1));
    }
    const Matrix expected = alone.read();
    for (const int64_t rows : {2, 8, 9, 16, 31, 64}) {
      const DeviceMatrix together = put_f32(Matrix(rows, shape.out));
      multiply(x.tensor().slice_rows(64 - rows, rows), packed, nullptr, together.tensor());
      const Matrix out = together.read();
      for (int64_t r = 0; r < rows; ++r) {
        ASSERT_TRUE(testing::same_bits(out.tensor().row<float>(r),
                                       expected.tensor().row<float>(64 - rows + r), shape.out))
            << "row " << r << " of " << rows;
      }
    }
  }
}

// By 16 bytes or one by one, and whatever lies between them.
TEST_P(CudaQuantized, a_row_has_the_same_bits_at_any_address) {
  for (const WeightFormat format :
       {WeightFormat::kInt4, WeightFormat::kCodebook4, WeightFormat::kInt8}) {
    const Shape shape{format, 20, 1216, format == WeightFormat::kInt8 ? 1216 : 64, false, true};
    const cuda::QuantizedMatrix packed = pack(random_weight(shape, dtype()));
    for (const int64_t rows : {1, 9, 40}) {
      const Matrix values = Matrix::random(rows, shape.in, 5);
      const DeviceMatrix x = put(values);
      const DeviceMatrix y = put_f32(Matrix(rows, shape.out));
      multiply(x.tensor(), packed, nullptr, y.tensor());
      const Matrix expected = y.read();
      for (const int64_t gap : {1, 4, 8}) {
        const DeviceMatrix apart = put(values, gap);
        multiply(apart.tensor(), packed, nullptr, y.tensor());
        EXPECT_TRUE(testing::same_bits(y.read(), expected)) << rows << " rows, gaps of " << gap;
      }
    }
  }
}

// Few rows go to the kernel for quantised weights, many to unpacked ones, which are rounded.
TEST_P(CudaQuantized, the_backend_multiplies_few_rows_and_many) {
  for (const Shape& shape : kShapes) {
    const RandomWeight random = random_weight(shape, dtype());
    const Weight weight = *backend().load_weight(random.host());
    EXPECT_EQ(weight.storage.bytes(), cuda::weight_bytes(random.host()));
    const Matrix bias = put(Matrix::random(1, shape.out, 7)).read();
    const Parameter bias_vector = load_vector(bias);
    for (const int64_t rows : {2, 65}) {
      const DeviceMatrix x = put(Matrix::random(rows, shape.in, rows));
      const DeviceMatrix y = put(Matrix(rows, shape.out), 2);
      backend().linear(x.tensor(), weight, &bias_vector.tensor, y.tensor());
      const Matrix inputs = x.read();
      const Matrix out = y.read();
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t o = 0; o < shape.out; ++o) {
          double sum = bias.at(0, o);
          double magnitude = 0;
          for (int64_t k = 0; k < shape.in; ++k) {
            const double product = double{inputs.at(r, k)} * weight_value(random.host(), o, k);
            sum += product;
            magnitude += std::fabs(product);
          }
          // Integer formats are exact where the definition was rounded.
          ASSERT_NEAR(out.at(r, o), sum, unit() * (magnitude + std::fabs(sum)) + 1e-7) << rows;
        }
      }
    }
  }
}

TEST_P(CudaQuantized, gated_has_the_bits_of_two_products_and_a_gate) {
  std::vector<Shape> shapes(std::begin(kShapes), std::end(kShapes));
  shapes.insert(shapes.end(), std::begin(kSmallGroups), std::end(kSmallGroups));
  for (const Shape& shape : shapes) {
    const RandomWeight first = random_weight(shape, dtype());
    const RandomWeight second = random_weight(shape, dtype(), 1);
    HostWeight of_one_codebook = second.host();
    of_one_codebook.codebook = first.host().codebook;
    const Weight gate = *backend().load_weight(first.host());
    const Weight up = *backend().load_weight(of_one_codebook);
    for (const int64_t rows : {1, 8, 9, 20, 64, 65}) {
      const DeviceMatrix x = put(Matrix::random(rows, shape.in, rows));
      expect_gated(x.tensor(), gate, up);
    }
  }
}

TEST_P(CudaQuantized, a_weight_is_whole_as_soon_as_it_is_loaded) {
  for (const Shape& shape : kShapes) {
    const RandomWeight random = random_weight(shape, dtype());
    const DeviceMatrix x = put(Matrix::random(3, shape.in, 1));
    const DeviceMatrix y = put(Matrix(3, shape.out)), again = put(Matrix(3, shape.out));
    const Weight weight = *backend().load_weight(random.host());
    backend().linear(x.tensor(), weight, nullptr, y.tensor());
    backend().synchronize();
    backend().linear(x.tensor(), weight, nullptr, again.tensor());
    EXPECT_TRUE(testing::same_bits(y.read(), again.read()));
  }
}

TEST_P(CudaQuantized, gated_weights_may_be_of_two_forms) {
  constexpr int64_t kOut = 37, kIn = 320;
  const auto quantised = [&](WeightFormat format, int64_t group_size, uint32_t seed) {
    const RandomWeight random({.format = format, .group_size = group_size, .dtype = dtype()}, kOut,
                              kIn, seed);
    return *backend().load_weight(random.host());
  };
  const Weight int4 = quantised(WeightFormat::kInt4, 128, 1);
  const Weight int8 = quantised(WeightFormat::kInt8, kIn, 2);
  const Weight codebook = quantised(WeightFormat::kCodebook4, 64, 3);
  const Weight another_codebook = quantised(WeightFormat::kCodebook4, 64, 4);
  const Weight dense = *backend().load_weight(
      dense_weight(testing::StoredTensor(Matrix::random(kOut, kIn, 5), dtype()).host()));
  const DeviceMatrix x = put(Matrix::random(3, kIn, 6));
  expect_gated(x.tensor(), int4, int8);
  expect_gated(x.tensor(), codebook, another_codebook);
  expect_gated(x.tensor(), dense, int4);
  expect_gated(x.tensor(), int8, dense);
}

TEST_P(CudaQuantized, outputs_and_inputs_beyond_the_matrix_count_for_nothing) {
  const Shape shape{WeightFormat::kInt4, 5, 100, 128, false, true};
  const RandomWeight weight = random_weight(shape, DType::kF32);
  const cuda::QuantizedMatrix packed = pack(weight);
  Matrix wide = Matrix::random(3, 128, 1);
  for (int64_t r = 0; r < 3; ++r) {
    for (int64_t c = 100; c < 128; ++c) wide.at(r, c) = NAN;
  }
  const DeviceMatrix x = put(wide);
  const DeviceMatrix y = put_f32(Matrix(3, 5), 11);
  multiply(x.tensor().slice_cols(0, 100), packed, nullptr, y.tensor());
  const Matrix out = y.read();
  for (int64_t r = 0; r < 3; ++r) {
    for (int64_t o = 0; o < 5; ++o) EXPECT_TRUE(std::isfinite(out.at(r, o)));
  }
}

}  // namespace
}  // namespace cogserve
