// Norms, activations, row operations, picture rearrangements and memory of the CUDA backend,
// against plain loops over what the 16-bit inputs really hold.
#include <cmath>
#include <limits>
#include <numeric>
#include <thread>

#include "engine/base/check.hpp"
#include "engine/base/error.hpp"
#include "tests/engine/cuda_test_tools.hpp"

namespace cogserve {
namespace {

using testing::CudaTest;
using testing::DeviceMatrix;
using testing::Matrix;
using testing::StoredTensor;
using testing::value_of;

// Rows, columns and gap: gaps of 8 keep rows aligned to 16 bytes, others do not.
struct Shape {
  int64_t rows;
  int64_t cols;
  int64_t gap;
};
const Shape kShapes[] = {{1, 1, 0},    {2, 7, 3},    {3, 8, 8},    {5, 33, 0},
                         {2, 64, 0},   {4, 100, 4},  {3, 1792, 8}, {1, 2056, 0},
                         {2, 4096, 0}, {1, 5000, 0}, {2, 4100, 2}};

class CudaNorms : public CudaTest {};
COGSERVE_CUDA_SUITE(CudaNorms);

TEST_P(CudaNorms, rms_norm_equals_a_plain_loop_for_odd_shapes) {
  for (const auto& [rows, cols, gap] : kShapes) {
    const DeviceMatrix x = put(Matrix::random(rows, cols, 1), gap);
    const Matrix weight = Matrix::random(1, cols, 2);
    const DeviceMatrix y = put(Matrix(rows, cols), gap);
    backend().rms_norm(x.tensor(), load_vector(weight).tensor, 1e-5f, y.tensor());
    const Matrix in = x.read();
    const Matrix out = y.read();
    for (int64_t r = 0; r < rows; ++r) {
      double squares = 0.0;
      for (int64_t c = 0; c < cols; ++c) squares += static_cast<double>(in.at(r, c)) * in.at(r, c);
      for (int64_t c = 0; c < cols; ++c) {
        const double expected = in.at(r, c) / std::sqrt(squares / cols + 1e-5) * weight.at(0, c);
        ASSERT_NEAR(out.at(r, c), expected, unit() * std::fabs(expected) + 1e-6)
            << rows << " x " << cols;
      }
    }
  }
}

TEST_P(CudaNorms, add_rms_norm_has_the_bits_of_an_addition_and_a_norm) {
  for (const auto& [rows, cols, gap] : kShapes) {
    const DeviceMatrix x = put(Matrix::random(rows, cols, 1), gap);
    const Parameter weight = load_vector(Matrix::random(1, cols, 2));
    const Matrix before = Matrix::random(rows, cols, 3);
    const DeviceMatrix expected_sum = put(before, gap), expected = put(Matrix(rows, cols), gap);
    backend().add(x.tensor(), expected_sum.tensor());
    backend().rms_norm(expected_sum.tensor(), weight.tensor, 1e-5f, expected.tensor());
    const DeviceMatrix sum = put(before, gap), y = put(Matrix(rows, cols), gap);
    backend().add_rms_norm(x.tensor(), weight.tensor, 1e-5f, sum.tensor(), y.tensor());
    EXPECT_TRUE(testing::same_bits(sum.read(), expected_sum.read())) << rows << " x " << cols;
    EXPECT_TRUE(testing::same_bits(y.read(), expected.read())) << rows << " x " << cols;
    // In place.
    const DeviceMatrix again = put(before, gap);
    backend().add_rms_norm(x.tensor(), weight.tensor, 1e-5f, again.tensor(), x.tensor());
    EXPECT_TRUE(testing::same_bits(x.read(), expected.read())) << rows << " x " << cols;
  }
}

TEST_P(CudaNorms, layer_norm_stores_or_adds_what_a_plain_loop_gives) {
  for (const auto& [rows, cols, gap] : kShapes) {
    Matrix values = Matrix::random(rows, cols, 1);
    for (int64_t c = 0; c < cols; ++c) values.at(0, c) += 100.0f;  // far mean, small variance
    const DeviceMatrix x = put(values, gap);
    const Matrix weight = Matrix::random(1, cols, 2);
    const Matrix bias = Matrix::random(1, cols, 4);
    const Parameter weight_vector = load_vector(weight);
    const Parameter bias_vector = load_vector(bias);
    const DeviceMatrix y = put(Matrix(rows, cols), gap);
    backend().layer_norm(x.tensor(), weight_vector.tensor, bias_vector.tensor, 1e-6f, y.tensor());
    const DeviceMatrix sum = put(Matrix::random(rows, cols, 6), gap);
    const Matrix before = sum.read();
    backend().add_layer_norm(x.tensor(), weight_vector.tensor, bias_vector.tensor, 1e-6f,
                             sum.tensor());
    const Matrix in = x.read();
    const Matrix out = y.read();
    const Matrix added = sum.read();
    for (int64_t r = 0; r < rows; ++r) {
      double mean = 0.0, variance = 0.0;
      for (int64_t c = 0; c < cols; ++c) mean += in.at(r, c) / static_cast<double>(cols);
      for (int64_t c = 0; c < cols; ++c) variance += (in.at(r, c) - mean) * (in.at(r, c) - mean);
      variance /= static_cast<double>(cols);
      for (int64_t c = 0; c < cols; ++c) {
        const double normed = (in.at(r, c) - mean) / std::sqrt(variance + 1e-6) * weight.at(0, c);
        const double expected = normed + bias.at(0, c);
        // The mean of f32 numbers around 100 is known to about 1e-5.
        const double slack = 1e-4 * (1 + std::fabs(normed));
        ASSERT_NEAR(out.at(r, c), expected, unit() * std::fabs(expected) + slack)
            << rows << " x " << cols;
        const double total = before.at(r, c) + expected;
        ASSERT_NEAR(added.at(r, c), total, unit() * std::fabs(total) + slack);
      }
    }
  }
}

class CudaActivations : public CudaTest {
 protected:
  // Numbers of every magnitude that the dtype has, and both signs.
  Matrix all_magnitudes() const {
    std::vector<float> values = {0.0f, -0.0f, 0.5f, -0.5f};
    for (float x = 1e-4f; x < 3e4f; x *= 1.3f) {
      values.push_back(x);
      values.push_back(-x);
    }
    Matrix matrix(1, values.size());
    for (size_t i = 0; i < values.size(); ++i) matrix.at(0, i) = values[i];
    return matrix;
  }
};
COGSERVE_CUDA_SUITE(CudaActivations);

TEST_P(CudaActivations, gelu_follows_the_error_function_at_every_magnitude) {
  const DeviceMatrix x = put(all_magnitudes());
  const Matrix in = x.read();
  backend().gelu(x.tensor());
  const Matrix out = x.read();
  for (int64_t c = 0; c < in.cols(); ++c) {
    const double value = in.at(0, c);
    const double exact = value * 0.5 * std::erfc(-value / std::sqrt(2.0));
    ASSERT_NEAR(out.at(0, c), exact, unit() * std::fabs(exact) + 1e-7) << "x = " << value;
  }
}

// Of every number that the dtype has: its GELU is one of the two numbers beside the exact value,
// and almost always the nearer one. Only where they are about as near, an error far below the
// dtype's precision decides.
TEST_P(CudaActivations, gelu_rounds_every_number_to_one_beside_the_exact_value) {
  // Patterns in ascending order of their numbers: -0 and 0 are both 0x8000.
  const auto number_at = [&](int at) {
    return value_of(static_cast<uint16_t>(at < 0x8000 ? 0x10000 - at : at - 0x8000), dtype());
  };
  const auto place_of = [&](float value) {
    const int bits = testing::bits_of(value, dtype());
    return bits >= 0x8000 ? 0x10000 - bits : 0x8000 + bits;
  };
  std::vector<uint16_t> bits(0x10000);
  std::iota(bits.begin(), bits.end(), uint16_t{0});
  const DeviceMatrix x = put(Matrix(1, static_cast<int64_t>(bits.size())));
  backend().upload(bits.data(), x.tensor());
  backend().gelu(x.tensor());
  const Matrix out = x.read();
  int numbers = 0, further = 0;
  for (size_t i = 0; i < bits.size(); ++i) {
    const double value = value_of(bits[i], dtype());
    if (!std::isfinite(value)) continue;
    const double exact = value * 0.5 * std::erfc(-value / std::sqrt(2.0));
    const float result = out.at(0, static_cast<int64_t>(i));
    const double below = number_at(place_of(result) - 1), above = number_at(place_of(result) + 1);
    ASSERT_TRUE(below < exact && exact < above) << "x = " << value << ", gelu = " << result;
    const double other = exact < result ? below : above;
    further += std::fabs(result - exact) > std::fabs(other - exact);
    ++numbers;
  }
  EXPECT_LE(further, numbers / 500);
}

TEST_P(CudaActivations, silu_mul_follows_the_logistic_function_at_every_magnitude) {
  const Matrix values = all_magnitudes();
  Matrix factors(1, values.cols());
  for (int64_t c = 0; c < values.cols(); ++c) factors.at(0, c) = c % 2 == 0 ? 1.0f : -2.0f;
  const DeviceMatrix gate = put(values), up = put(factors);
  const DeviceMatrix y = put(Matrix(1, values.cols()));
  backend().silu_mul(gate.tensor(), up.tensor(), y.tensor());
  const Matrix in = gate.read();
  const Matrix out = y.read();
  for (int64_t c = 0; c < in.cols(); ++c) {
    const double value = in.at(0, c);
    const double exact = value / (1.0 + std::exp(-value)) * factors.at(0, c);
    if (std::fabs(exact) > 6e4) continue;  // beyond f16
    ASSERT_NEAR(out.at(0, c), exact, unit() * std::fabs(exact) + 1e-7) << "x = " << value;
  }
}

TEST_P(CudaActivations, keep_nan_and_take_infinities_to_their_limits) {
  const float infinity = std::numeric_limits<float>::infinity();
  Matrix values(1, 3);
  values.at(0, 0) = 1.0f;
  values.at(0, 1) = 1.0f;
  values.at(0, 2) = 1.0f;
  const DeviceMatrix x = put(values);
  // Neither conversion on the host takes infinities for both dtypes: write their bits.
  const uint16_t exponent = dtype() == DType::kBF16 ? 0x7f80 : 0x7c00;
  const uint16_t bits[] = {static_cast<uint16_t>(exponent | 0x40), exponent,
                           static_cast<uint16_t>(exponent | 0x8000)};
  backend().upload(bits, x.tensor());
  backend().gelu(x.tensor());
  const Matrix out = x.read();
  EXPECT_TRUE(std::isnan(out.at(0, 0)));
  EXPECT_EQ(out.at(0, 1), infinity);
  EXPECT_EQ(out.at(0, 2), 0.0f);
}

TEST_P(CudaActivations, silu_mul_works_in_place_and_with_gaps) {
  for (const int64_t gap : {0, 8, 3}) {
    const Matrix a = Matrix::random(5, 600, 1), b = Matrix::random(5, 600, 2);
    const DeviceMatrix gate = put(a, gap), up = put(b, gap), y = put(Matrix(5, 600), gap);
    backend().silu_mul(gate.tensor(), up.tensor(), y.tensor());
    const Matrix expected = y.read();
    const DeviceMatrix in_gate = put(a, gap), in_up = put(b, gap);
    backend().silu_mul(in_gate.tensor(), up.tensor(), in_gate.tensor());
    backend().silu_mul(gate.tensor(), in_up.tensor(), in_up.tensor());
    EXPECT_TRUE(testing::same_bits(expected, in_gate.read()));
    EXPECT_TRUE(testing::same_bits(expected, in_up.read()));
  }
}

class CudaRows : public CudaTest {};
COGSERVE_CUDA_SUITE(CudaRows);

TEST_P(CudaRows, embed_converts_rows_and_leaves_image_rows_alone) {
  for (const DType stored_dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    const StoredTensor stored(Matrix::random(11, 300, 1), stored_dtype);
    const Parameter table = *backend().load_table(stored.host());
    EXPECT_EQ(table.tensor.dtype, stored_dtype);
    const std::vector<int32_t> ids = {3, -1, 10, 0, 3};
    const DeviceMatrix y = put(Matrix::random(5, 300, 2), 2);
    const Matrix before = y.read();
    backend().embed(table.tensor, ids, y.tensor());
    const Matrix out = y.read();
    for (int64_t r = 0; r < 5; ++r) {
      for (int64_t c = 0; c < 300; ++c) {
        const float expected =
            ids[r] < 0
                ? before.at(r, c)
                : testing::value_of(
                      testing::bits_of(static_cast<float>(stored.at(ids[r], c)), dtype()), dtype());
        ASSERT_EQ(out.at(r, c), expected);
      }
    }
  }
}

TEST_P(CudaRows, gather_copy_and_add_do_what_they_say) {
  for (const auto& [rows, cols, gap] : kShapes) {
    const DeviceMatrix x = put(Matrix::random(rows, cols, 1), gap);
    const Matrix in = x.read();
    std::vector<int32_t> order(rows);
    for (int64_t r = 0; r < rows; ++r) order[r] = static_cast<int32_t>((r * 2 + 1) % rows);
    const DeviceMatrix gathered = put(Matrix(rows, cols), gap);
    backend().gather_rows(x.tensor(), order, gathered.tensor());
    const DeviceMatrix sum = put(Matrix::random(rows, cols, 2), gap);
    const Matrix before = sum.read();
    backend().add(x.tensor(), sum.tensor());
    const DeviceMatrix copied = put(Matrix(rows, cols), 4);
    backend().copy(x.tensor(), copied.tensor());
    const DeviceMatrix widened = put_f32(Matrix(rows, cols), 1);
    backend().copy(x.tensor(), widened.tensor());
    const Matrix gathered_rows = gathered.read(), sums = sum.read();
    EXPECT_TRUE(testing::same_bits(copied.read(), in));
    EXPECT_TRUE(testing::same_bits(widened.read(), in));
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) {
        ASSERT_EQ(gathered_rows.at(r, c), in.at(order[r], c));
        const float exact = before.at(r, c) + in.at(r, c);
        ASSERT_EQ(sums.at(r, c), testing::value_of(testing::bits_of(exact, dtype()), dtype()));
      }
    }
  }
}

TEST_P(CudaRows, arrays_of_the_host_may_change_as_soon_as_a_call_returns) {
  const DeviceMatrix x = put(Matrix::random(64, 8, 1));
  const Matrix in = x.read();
  std::vector<int32_t> rows(64);
  // More than the ring of pinned memory holds at a time, each call with other indices.
  std::vector<DeviceMatrix> results;
  for (int call = 0; call < 40; ++call) {
    for (int i = 0; i < 64; ++i) rows[i] = (i * 7 + call) % 64;
    results.push_back(put(Matrix(64, 8)));
    backend().gather_rows(x.tensor(), rows, results.back().tensor());
    std::fill(rows.begin(), rows.end(), 0);
  }
  for (int call = 0; call < 40; ++call) {
    const Matrix out = results[call].read();
    for (int i = 0; i < 64; ++i) ASSERT_EQ(out.at(i, 3), in.at((i * 7 + call) % 64, 3));
  }
}

TEST_P(CudaRows, vectors_are_loaded_as_f32) {
  for (const DType stored_dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    const StoredTensor stored(Matrix::random(1, 21, 1), stored_dtype);
    const Parameter vector = *backend().load_vector(stored.host());
    ASSERT_EQ(vector.tensor.dtype, DType::kF32);
    std::vector<float> values(21);
    backend().download(vector.tensor, values.data());
    for (int64_t c = 0; c < 21; ++c) EXPECT_EQ(values[c], static_cast<float>(stored.at(0, c)));
  }
}

class CudaPictures : public CudaTest {};
COGSERVE_CUDA_SUITE(CudaPictures);

TEST_P(CudaPictures, patches_are_ordered_channel_then_line_then_column) {
  constexpr int kSize = 12, kPatch = 3, kGrid = kSize / kPatch;
  Matrix values(3, kSize * kSize);
  for (int c = 0; c < 3; ++c) {
    // Small enough for bf16 to hold every one of them.
    for (int i = 0; i < kSize * kSize; ++i) values.at(c, i) = static_cast<float>((i * 3 + c) % 251);
  }
  const DeviceMatrix pixels = put_f32(values);
  const DeviceMatrix y = put(Matrix(kGrid * kGrid, 3 * kPatch * kPatch), 2);
  backend().extract_patches(pixels.tensor(), kSize, kPatch, y.tensor());
  const Matrix out = y.read();
  for (int patch = 0; patch < kGrid * kGrid; ++patch) {
    for (int c = 0; c < 3; ++c) {
      for (int line = 0; line < kPatch; ++line) {
        for (int column = 0; column < kPatch; ++column) {
          const int py = patch / kGrid * kPatch + line, px = patch % kGrid * kPatch + column;
          EXPECT_EQ(out.at(patch, (c * kPatch + line) * kPatch + column),
                    values.at(c, py * kSize + px));
        }
      }
    }
  }
}

TEST_P(CudaPictures, merge_puts_the_rows_of_each_cell_side_by_side) {
  constexpr int kGrid = 6, kWidth = 5;
  const DeviceMatrix x = put(Matrix::random(kGrid * kGrid, kWidth, 1), 2);
  const DeviceMatrix y = put(Matrix(kGrid * kGrid / 4, 4 * kWidth), 1);
  backend().merge_2x2(x.tensor(), kGrid, y.tensor());
  const Matrix in = x.read(), out = y.read();
  for (int cell = 0; cell < kGrid * kGrid / 4; ++cell) {
    const int top = cell / (kGrid / 2) * 2, left = cell % (kGrid / 2) * 2;
    for (int part = 0; part < 4; ++part) {
      for (int c = 0; c < kWidth; ++c) {
        EXPECT_EQ(out.at(cell, part * kWidth + c),
                  in.at((top + part / 2) * kGrid + left + part % 2, c));
      }
    }
  }
}

class CudaMemory : public CudaTest {};
COGSERVE_CUDA_SUITE(CudaMemory);

TEST_P(CudaMemory, is_aligned_and_zeroed) {
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{100}, size_t{5} << 20}) {
    const Buffer buffer = *backend().allocate(bytes);
    EXPECT_EQ(buffer.bytes(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
    const int64_t words = static_cast<int64_t>(bytes / 4);
    std::vector<int32_t> host(words, -1);
    backend().download(Tensor::matrix(buffer.data(), DType::kI32, 1, words), host.data());
    EXPECT_TRUE(std::all_of(host.begin(), host.end(), [](int32_t word) { return word == 0; }));
  }
}

TEST_P(CudaMemory, that_is_not_to_be_had_is_refused_with_a_reason) {
  for (const size_t bytes : {size_t{1} << 46, size_t{1} << 62}) {
    const absl::Status status = backend().allocate(bytes).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(error_reason(status), "MEMORY");
  }
  const DeviceMatrix x = put(Matrix::random(1, 8, 1));  // and the device is as good as before
  backend().gelu(x.tensor());
  backend().synchronize();
}

TEST_P(CudaMemory, uploads_and_downloads_skip_the_gaps_between_rows) {
  std::vector<float> host(6 * 5);
  std::iota(host.begin(), host.end(), 1.0f);
  const DeviceMatrix matrix = put_f32(Matrix(6, 5), 3);
  backend().upload(host.data(), matrix.tensor());
  EXPECT_EQ(matrix.read().at(4, 2), host[4 * 5 + 2]);
  std::vector<float> back(host.size());
  backend().download(matrix.tensor(), back.data());
  EXPECT_EQ(back, host);
}

TEST_P(CudaMemory, uploads_more_than_the_ring_of_host_arrays_holds) {
  constexpr int64_t kRows = 1100;
  constexpr int64_t kCols = 4099;  // 17.2 MiB
  std::vector<float> host(kRows * kCols);
  std::iota(host.begin(), host.end(), 1.0f);
  const Buffer buffer = *backend().allocate(host.size() * sizeof(float));
  const Tensor matrix = Tensor::matrix(buffer.data(), DType::kF32, kRows, kCols);
  backend().upload(host.data(), matrix);
  std::vector<float> back(host.size());
  backend().download(matrix, back.data());
  EXPECT_EQ(back, host);
}

TEST_P(CudaMemory, belongs_to_the_backend_whichever_thread_uses_it) {
  const DeviceMatrix x = put(Matrix::random(3, 40, 1));
  const Matrix before = x.read();
  std::thread([&] { backend().add(x.tensor(), put(Matrix(3, 40)).tensor()); }).join();
  EXPECT_TRUE(testing::same_bits(before, x.read()));
}

TEST_P(CudaMemory, shapes_that_do_not_fit_are_broken_invariants) {
  const DeviceMatrix a = put(Matrix(2, 3)), b = put(Matrix(2, 4));
  EXPECT_THROW(backend().add(a.tensor(), b.tensor()), InvariantError);
  const std::vector<int32_t> ids = {0, 2};
  EXPECT_THROW(backend().embed(a.tensor(), ids, a.tensor()), InvariantError);
  const DeviceMatrix f32 = put_f32(Matrix(2, 3));
  EXPECT_THROW(backend().gelu(f32.tensor()), InvariantError);
}

TEST(CudaBackend, is_not_made_for_names_that_are_no_device) {
  for (const char* name : {"cpu", "cuda", "cuda:", "cuda:x", "cuda:-1", "cuda:0x", "cuda: 0"}) {
    const absl::Status status = CudaBackend::create(name).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_EQ(error_reason(status), "UNKNOWN_DEVICE") << name;
  }
  const absl::Status status = CudaBackend::create("cuda:4096").status();
  EXPECT_FALSE(status.ok());  // no such number, or no device at all
}

}  // namespace
}  // namespace cogserve
