// Norms, activations, row operations, picture rearrangements, memory and threads of the CPU
// backend.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <numeric>

#include "engine/backend/cpu/thread_pool.hpp"
#include "engine/base/check.hpp"
#include "engine/base/error.hpp"
#include "tests/engine/cpu_test_tools.hpp"

namespace cogserve {
namespace {

using testing::Matrix;
using testing::StoredTensor;

const std::pair<int64_t, int64_t> kShapes[] = {{1, 1},  {2, 7},   {3, 8},     {7, 33},
                                               {5, 64}, {4, 100}, {300, 257}, {3, 4096}};

TEST(CpuNorms, rms_norm_equals_a_plain_loop_for_odd_shapes) {
  CpuBackend backend(2);
  for (const auto& [rows, cols] : kShapes) {
    const Matrix x = Matrix::random(rows, cols, 1, 3);
    const Matrix weight = Matrix::random(1, cols, 2);
    Matrix y(rows, cols, 5);
    backend.rms_norm(x.tensor(), weight.tensor(), 1e-5f, y.tensor());
    EXPECT_TRUE(y.gaps_untouched());
    for (int64_t r = 0; r < rows; ++r) {
      double squares = 0.0;
      for (int64_t c = 0; c < cols; ++c) squares += static_cast<double>(x.at(r, c)) * x.at(r, c);
      for (int64_t c = 0; c < cols; ++c) {
        const double expected = x.at(r, c) / std::sqrt(squares / cols + 1e-5) * weight.at(0, c);
        ASSERT_NEAR(y.at(r, c), expected, 1e-6 * (1 + std::fabs(expected)));
      }
    }
  }
}

TEST(CpuNorms, add_rms_norm_is_an_addition_and_a_norm) {
  CpuBackend backend(2);
  const Matrix x = Matrix::random(5, 250, 1);
  const Matrix weight = Matrix::random(1, 250, 2);
  const Matrix before = Matrix::random(5, 250, 3);
  Matrix expected_sum = before, expected(5, 250);
  backend.add(x.tensor(), expected_sum.tensor());
  backend.rms_norm(expected_sum.tensor(), weight.tensor(), 1e-5f, expected.tensor());
  Matrix sum = before, y = x;
  backend.add_rms_norm(y.tensor(), weight.tensor(), 1e-5f, sum.tensor(), y.tensor());
  EXPECT_TRUE(testing::same_bits(sum, expected_sum));
  EXPECT_TRUE(testing::same_bits(y, expected));
}

TEST(CpuNorms, layer_norm_stores_or_adds_what_a_plain_loop_gives) {
  CpuBackend backend(2);
  for (const auto& [rows, cols] : kShapes) {
    Matrix x = Matrix::random(rows, cols, 1, 3);
    for (int64_t c = 0; c < cols; ++c) x.at(0, c) += 1000.0f;  // far mean, small variance
    const Matrix weight = Matrix::random(1, cols, 2);
    const Matrix bias = Matrix::random(1, cols, 4);
    Matrix y(rows, cols, 5);
    backend.layer_norm(x.tensor(), weight.tensor(), bias.tensor(), 1e-6f, y.tensor());
    const Matrix before = Matrix::random(rows, cols, 6, 5);
    Matrix sum = before;
    backend.add_layer_norm(x.tensor(), weight.tensor(), bias.tensor(), 1e-6f, sum.tensor());
    EXPECT_TRUE(y.gaps_untouched() && sum.gaps_untouched());
    for (int64_t r = 0; r < rows; ++r) {
      double mean = 0.0, variance = 0.0;
      for (int64_t c = 0; c < cols; ++c) mean += x.at(r, c) / static_cast<double>(cols);
      for (int64_t c = 0; c < cols; ++c) variance += (x.at(r, c) - mean) * (x.at(r, c) - mean);
      variance /= static_cast<double>(cols);
      // The mean of f32 numbers around 1000 is known to a few 1e-5 of their spread.
      const double tolerance = r == 0 ? 5e-4 : 3e-6;
      for (int64_t c = 0; c < cols; ++c) {
        const double unit = (x.at(r, c) - mean) / std::sqrt(variance + 1e-6);
        const double expected = unit * weight.at(0, c) + bias.at(0, c);
        ASSERT_NEAR(y.at(r, c), expected, tolerance * (1 + std::fabs(expected)));
        ASSERT_FLOAT_EQ(sum.at(r, c), before.at(r, c) + y.at(r, c));
      }
    }
  }
}

TEST(CpuNorms, a_row_has_the_same_bits_alone_and_in_company) {
  CpuBackend one(1), three(3);
  const Matrix x = Matrix::random(200, 250, 1);
  const Matrix weight = Matrix::random(1, 250, 2);
  const Matrix bias = Matrix::random(1, 250, 3);
  Matrix together(200, 250), alone(200, 250);
  three.layer_norm(x.tensor(), weight.tensor(), bias.tensor(), 1e-6f, together.tensor());
  for (int64_t r = 0; r < 200; ++r) {
    one.layer_norm(x.tensor().slice_rows(r, 1), weight.tensor(), bias.tensor(), 1e-6f,
                   alone.tensor().slice_rows(r, 1));
  }
  EXPECT_TRUE(testing::same_bits(together, alone));
}

// Relative error, or absolute where the exact result is below the normal numbers.
double error_against(double exact, float got) {
  return std::fabs(got - exact) / std::max(std::fabs(exact), 1.2e-38);
}

// Numbers of every magnitude and both signs, and a fine grid around zero.
std::vector<float> all_magnitudes() {
  std::vector<float> values = {0.0f, -0.0f};
  for (float x = 1e-38f; x < 3e38f; x *= 1.003f) {
    values.push_back(x);
    values.push_back(-x);
  }
  for (int i = -16000; i <= 16000; ++i) values.push_back(static_cast<float>(i) * 1e-3f);
  return values;
}

TEST(CpuActivations, gelu_follows_the_error_function_at_every_magnitude) {
  CpuBackend backend(1);
  const std::vector<float> values = all_magnitudes();
  Matrix x(1, values.size());
  std::copy(values.begin(), values.end(), x.tensor().row<float>(0));
  backend.gelu(x.tensor());
  double worst = 0.0;
  for (size_t i = 0; i < values.size(); ++i) {
    const double in = values[i];
    const double exact = in * 0.5 * std::erfc(-in / std::sqrt(2.0));
    // Below 1e-36 the exponential is flushed to zero.
    if (std::fabs(exact) < 1e-36) {
      ASSERT_NEAR(x.at(0, i), exact, 1e-36) << "x = " << in;
    } else {
      worst = std::max(worst, error_against(exact, x.at(0, i)));
      ASSERT_LT(error_against(exact, x.at(0, i)), 6e-7) << "x = " << in;
    }
  }
  RecordProperty("worst_relative_error", std::to_string(worst));
}

TEST(CpuActivations, silu_mul_follows_the_logistic_function_at_every_magnitude) {
  CpuBackend backend(1);
  const std::vector<float> values = all_magnitudes();
  Matrix gate(1, values.size()), up(1, values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    gate.at(0, i) = values[i];
    up.at(0, i) = i % 2 == 0 ? 1.0f : -2.0f;
  }
  Matrix y(1, values.size());
  backend.silu_mul(gate.tensor(), up.tensor(), y.tensor());
  for (size_t i = 0; i < values.size(); ++i) {
    const double in = values[i];
    const double exact = in / (1.0 + std::exp(-in)) * up.at(0, i);
    if (std::fabs(exact) < 1e-34 || std::fabs(exact) > 3.4e38) continue;
    ASSERT_LT(error_against(exact, y.at(0, i)), 3e-7) << "x = " << in;
  }
}

TEST(CpuActivations, keep_nan_and_take_infinities_to_their_limits) {
  CpuBackend backend(1);
  const float infinity = std::numeric_limits<float>::infinity();
  Matrix x(1, 3), up(1, 3), y(1, 3);
  const float in[] = {std::nanf(""), infinity, -infinity};
  for (int i = 0; i < 3; ++i) {
    x.at(0, i) = in[i];
    up.at(0, i) = 1.0f;
  }
  backend.silu_mul(x.tensor(), up.tensor(), y.tensor());
  EXPECT_TRUE(std::isnan(y.at(0, 0)));
  EXPECT_EQ(y.at(0, 1), infinity);
  backend.gelu(x.tensor());
  EXPECT_TRUE(std::isnan(x.at(0, 0)));
  EXPECT_EQ(x.at(0, 1), infinity);
  EXPECT_EQ(x.at(0, 2), 0.0f);
}

TEST(CpuActivations, silu_mul_works_in_place) {
  CpuBackend backend(2);
  const Matrix gate = Matrix::random(9, 37, 1), up = Matrix::random(9, 37, 2);
  Matrix y(9, 37), in_gate = gate, in_up = up;
  backend.silu_mul(gate.tensor(), up.tensor(), y.tensor());
  backend.silu_mul(in_gate.tensor(), up.tensor(), in_gate.tensor());
  backend.silu_mul(gate.tensor(), in_up.tensor(), in_up.tensor());
  EXPECT_TRUE(testing::same_bits(y, in_gate));
  EXPECT_TRUE(testing::same_bits(y, in_up));
}

TEST(CpuRows, embed_widens_rows_and_leaves_image_rows_alone) {
  CpuBackend backend(2);
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    const StoredTensor stored(Matrix::random(11, 13, 1), dtype);
    const Parameter table = *backend.load_table(stored.host());
    EXPECT_EQ(table.tensor.dtype, dtype);
    const std::vector<int32_t> ids = {3, -1, 10, 0, 3};
    Matrix y(5, 13, 2);
    backend.embed(table.tensor, ids, y.tensor());
    for (int64_t r = 0; r < 5; ++r) {
      for (int64_t c = 0; c < 13; ++c) {
        EXPECT_EQ(y.at(r, c), ids[r] < 0 ? Matrix::kGap : static_cast<float>(stored.at(ids[r], c)));
      }
    }
  }
}

TEST(CpuRows, gather_copy_and_add_do_what_they_say) {
  CpuBackend backend(2);
  const Matrix x = Matrix::random(6, 19, 1, 3);
  Matrix gathered(4, 19, 1);
  const std::vector<int32_t> rows = {5, 0, 0, 3};
  backend.gather_rows(x.tensor(), rows, gathered.tensor());
  Matrix sum = Matrix::random(6, 19, 2, 1);
  const Matrix before = sum;
  backend.add(x.tensor(), sum.tensor());
  Matrix copied(6, 19, 4);
  backend.copy(x.tensor(), copied.tensor());
  for (int64_t c = 0; c < 19; ++c) {
    for (int64_t r = 0; r < 4; ++r) EXPECT_EQ(gathered.at(r, c), x.at(rows[r], c));
    for (int64_t r = 0; r < 6; ++r) EXPECT_EQ(sum.at(r, c), before.at(r, c) + x.at(r, c));
    for (int64_t r = 0; r < 6; ++r) EXPECT_EQ(copied.at(r, c), x.at(r, c));
  }
  EXPECT_TRUE(gathered.gaps_untouched() && sum.gaps_untouched() && copied.gaps_untouched());
}

TEST(CpuRows, vectors_are_loaded_as_f32) {
  CpuBackend backend(1);
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    const StoredTensor stored(Matrix::random(1, 21, 1), dtype);
    const Parameter vector = *backend.load_vector(stored.host());
    ASSERT_EQ(vector.tensor.dtype, DType::kF32);
    for (int64_t c = 0; c < 21; ++c) {
      EXPECT_EQ(vector.tensor.row<float>(0)[c], static_cast<float>(stored.at(0, c)));
    }
  }
}

TEST(CpuRows, uploads_and_downloads_skip_the_gaps_between_rows) {
  CpuBackend backend(1);
  std::vector<float> host(6 * 5);
  std::iota(host.begin(), host.end(), 1.0f);
  Matrix matrix(6, 5, 3);
  backend.upload(host.data(), matrix.tensor());
  EXPECT_TRUE(matrix.gaps_untouched());
  EXPECT_EQ(matrix.at(4, 2), host[4 * 5 + 2]);
  std::vector<float> back(host.size());
  backend.download(matrix.tensor(), back.data());
  EXPECT_EQ(back, host);
}

TEST(CpuPictures, patches_are_ordered_channel_then_line_then_column) {
  CpuBackend backend(2);
  constexpr int kSize = 12, kPatch = 3, kGrid = kSize / kPatch;
  Matrix pixels(3, kSize * kSize);
  for (int c = 0; c < 3; ++c) {
    for (int i = 0; i < kSize * kSize; ++i) pixels.at(c, i) = static_cast<float>(c * 1000 + i);
  }
  Matrix y(kGrid * kGrid, 3 * kPatch * kPatch, 2);
  backend.extract_patches(pixels.tensor(), kSize, kPatch, y.tensor());
  for (int patch = 0; patch < kGrid * kGrid; ++patch) {
    for (int c = 0; c < 3; ++c) {
      for (int line = 0; line < kPatch; ++line) {
        for (int column = 0; column < kPatch; ++column) {
          const int py = patch / kGrid * kPatch + line, px = patch % kGrid * kPatch + column;
          EXPECT_EQ(y.at(patch, (c * kPatch + line) * kPatch + column),
                    static_cast<float>(c * 1000 + py * kSize + px));
        }
      }
    }
  }
}

TEST(CpuPictures, merge_puts_the_rows_of_each_cell_side_by_side) {
  CpuBackend backend(2);
  constexpr int kGrid = 6, kWidth = 5;
  const Matrix x = Matrix::random(kGrid * kGrid, kWidth, 1, 2);
  Matrix y(kGrid * kGrid / 4, 4 * kWidth, 1);
  backend.merge_2x2(x.tensor(), kGrid, y.tensor());
  for (int cell = 0; cell < y.rows(); ++cell) {
    const int top = cell / (kGrid / 2) * 2, left = cell % (kGrid / 2) * 2;
    for (int part = 0; part < 4; ++part) {
      for (int c = 0; c < kWidth; ++c) {
        EXPECT_EQ(y.at(cell, part * kWidth + c),
                  x.at((top + part / 2) * kGrid + left + part % 2, c));
      }
    }
  }
}

TEST(CpuMemory, is_aligned_and_zeroed) {
  CpuBackend backend(1);
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{100}, size_t{5} << 20}) {
    const Buffer buffer = *backend.allocate(bytes);
    EXPECT_EQ(buffer.bytes(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
    const auto* data = static_cast<const std::byte*>(buffer.data());
    EXPECT_TRUE(std::all_of(data, data + bytes, [](std::byte b) { return b == std::byte{0}; }));
  }
}

TEST(CpuMemory, that_is_not_to_be_had_is_refused_with_a_reason) {
  CpuBackend backend(1);
  for (const size_t bytes : {~size_t{0}, ~size_t{0} >> 1, size_t{1} << 62}) {
    const absl::Status status = backend.allocate(bytes).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(error_reason(status), "MEMORY");
  }
}

TEST(CpuBackend, throws_at_shapes_that_do_not_fit) {
  CpuBackend backend(1);
  const Matrix a(2, 3), b(2, 4);
  EXPECT_THROW(backend.add(a.tensor(), b.tensor()), InvariantError);
  const std::vector<int32_t> ids = {0, 2};
  EXPECT_THROW(backend.embed(a.tensor(), ids, a.tensor()), InvariantError);
}

TEST(CpuBackend, is_made_by_name) {
  EXPECT_EQ(make_backend("cpu", 2).value()->description().find("cpu ("), 0u);
  const absl::Status status = make_backend("tpu", 1).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(error_reason(status), "UNKNOWN_DEVICE");
}

TEST(ThreadPool, covers_every_index_once_whatever_the_grain) {
  for (const int threads : {1, 2, 5}) {
    cpu::ThreadPool pool(threads);
    EXPECT_EQ(pool.size(), threads);
    for (const size_t n : {0, 1, 2, 7, 1000}) {
      for (const size_t grain : {1, 3, 1000}) {
        std::vector<std::atomic<int>> seen(n);
        std::vector<std::atomic<int>> inside(threads);
        std::atomic<bool> overlaps{false};
        pool.parallel_for(n, grain, [&](size_t begin, size_t end, int worker) {
          if (inside[worker]++ != 0) overlaps = true;
          for (size_t i = begin; i < end; ++i) ++seen[i];
          --inside[worker];
        });
        EXPECT_FALSE(overlaps);
        for (const auto& count : seen) ASSERT_EQ(count, 1);
      }
    }
  }
}

TEST(ThreadPool, runs_many_short_jobs_one_after_the_other) {
  cpu::ThreadPool pool(3);
  size_t sum = 0;
  for (size_t job = 0; job < 20000; ++job) {
    std::atomic<size_t> part{0};
    pool.parallel_for(6, 1, [&](size_t begin, size_t, int) { part += begin; });
    sum += part;
  }
  EXPECT_EQ(sum, 20000u * 15u);
}

}  // namespace
}  // namespace cogserve
