// Paged and dense attention of the CUDA backend, and the way into the cache, against plain loops;
// and bit for bit against themselves however rows are cut and whoever is beside them.
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>
#include <span>

#include "engine/backend/cuda/attention_arrays.hpp"
#include "engine/base/check.hpp"
#include "tests/engine/cuda_test_tools.hpp"

namespace cogserve {
namespace {

using testing::CudaTest;
using testing::DeviceMatrix;
using testing::Matrix;

struct Attended {
  std::vector<double> value;
  std::vector<double> magnitude;  // the same with absolute values: what rounding errors scale with
};

// softmax(scale * q k^T) v of one row over the first `limit` keys, in f64.
template <typename Key, typename Value>
Attended attend(const float* q, int head_dim, float scale, int limit, const Key& key,
                const Value& value) {
  std::vector<double> weights(limit);
  double top = -1e300;
  for (int i = 0; i < limit; ++i) {
    double score = 0.0;
    for (int j = 0; j < head_dim; ++j) score += static_cast<double>(q[j]) * key(i)[j];
    weights[i] = score * scale;
    top = std::max(top, weights[i]);
  }
  double sum = 0.0;
  for (double& weight : weights) sum += weight = std::exp(weight - top);
  Attended result{std::vector<double>(head_dim), std::vector<double>(head_dim)};
  for (int i = 0; i < limit; ++i) {
    for (int j = 0; j < head_dim; ++j) {
      result.value[j] += weights[i] / sum * value(i)[j];
      result.magnitude[j] += weights[i] / sum * std::fabs(value(i)[j]);
    }
  }
  return result;
}

Matrix filled(int64_t rows, int64_t cols, float value) {
  Matrix matrix(rows, cols);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) matrix.at(r, c) = value;
  }
  return matrix;
}

struct Shape {
  int heads;
  int kv_heads;
  int head_dim;
  int block_size;
  int length;
};

// One sequence whose keys and values lie scattered over a paged cache; unused slots hold huge
// numbers.
class PagedSequence {
 public:
  PagedSequence(CudaBackend& backend, DType dtype, const Shape& shape)
      : backend_(&backend),
        dtype_(dtype),
        shape_(shape),
        table_((shape.length + shape.block_size - 1) / shape.block_size),
        keys_(backend, cache_of(4), dtype),
        values_(backend, cache_of(5), dtype),
        q_(backend, Matrix::random(shape.length, shape.heads * shape.head_dim, 3), dtype, 8),
        host_keys_(keys_.read()),
        host_values_(values_.read()),
        host_q_(q_.read()) {}

  KvLayer layer() const {
    return {keys_.tensor().data, values_.tensor().data, dtype_,         blocks(),
            shape_.kv_heads,     shape_.block_size,     shape_.head_dim};
  }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(shape_.head_dim)); }
  const Shape& shape() const { return shape_; }
  const std::vector<int32_t>& table() const { return table_; }
  const Matrix& q() const { return host_q_; }

  Attended expected(int row, int head) const {
    const int kv_head = head / (shape_.heads / shape_.kv_heads);
    return attend(
        host_q_.tensor().row<float>(row) + head * shape_.head_dim, shape_.head_dim, scale(),
        row + 1, [&](int i) { return host_keys_.tensor().row<float>(row_of(kv_head, i)); },
        [&](int i) { return host_values_.tensor().row<float>(row_of(kv_head, i)); });
  }

  // The last row as a recorded step computes it: `grid` blocks share its splits.
  Matrix run_last(int grid) const {
    const int row = shape_.length - 1;
    const AttentionRun only{0, 1, row, 0};
    constexpr size_t kScratchBytes = 1 << 20;
    cuda::AttentionArrays arrays;
    cuda::Parcel parcel;
    arrays.pack({&only, 1}, table_, {shape_.heads, shape_.kv_heads, shape_.head_dim}, true,
                kScratchBytes, &parcel);
    const std::span<const std::byte> bytes = parcel.bytes();
    std::vector<int32_t> words((bytes.size() + 3) / 4);
    std::memcpy(words.data(), bytes.data(), bytes.size());
    const Buffer sent = *backend_->allocate(words.size() * 4);
    const Buffer scratch = *backend_->allocate(kScratchBytes);
    backend_->upload(words.data(), Tensor::matrix(sent.data(), DType::kI32, 1, words.size()));
    const DeviceMatrix y(*backend_, filled(1, q_.tensor().cols, 0.0f), dtype_, 8);
    backend_->synchronize();  // which works on a stream of its own
    const KvLayer kv = layer();
    const cuda::PagedAttention attention = {
        q_.tensor().slice_rows(row, 1),
        y.tensor(),
        shape_.heads,
        {kv.keys, kv.values, kv.dtype, kv.kv_heads, kv.block_size, kv.head_dim},
        nullptr,
        scale()};
    const cuda::Stream stream;
    arrays.attend(attention, static_cast<const std::byte*>(sent.data()), grid,
                  static_cast<float*>(scratch.data()), stream.get());
    stream.synchronize();
    return y.read();
  }

  // Rows from `first` on, `chunk` at a time; those before are 0.
  Matrix run(int chunk, int first = 0) const {
    const DeviceMatrix y(*backend_, filled(shape_.length, q_.tensor().cols, 0.0f), dtype_, 8);
    for (int begin = first; begin < shape_.length; begin += chunk) {
      const int count = std::min(chunk, shape_.length - begin);
      const AttentionRun only{0, count, begin, 0};
      backend_->paged_attention(q_.tensor().slice_rows(begin, count), shape_.heads, {&only, 1},
                                table_, layer(), scale(), y.tensor().slice_rows(begin, count));
    }
    return y.read();
  }

 private:
  static constexpr int kSpareBlocks = 3;

  int blocks() const { return static_cast<int>(table_.size()) + kSpareBlocks; }

  // The cache as a matrix of [blocks * kv_heads * block_size, head_dim].
  int64_t row_of(int kv_head, int index) const {
    const int64_t block = table_[index / shape_.block_size];
    return (block * shape_.kv_heads + kv_head) * shape_.block_size + index % shape_.block_size;
  }

  Matrix cache_of(uint32_t seed) {
    // Neither in order nor from block 0.
    std::iota(table_.begin(), table_.end(), 1);
    std::reverse(table_.begin(), table_.begin() + static_cast<long>(table_.size() / 2));
    const int64_t rows = int64_t{blocks()} * shape_.kv_heads * shape_.block_size;
    Matrix cache = filled(rows, shape_.head_dim, std::nanf(""));
    const Matrix random = Matrix::random(shape_.length * shape_.kv_heads, shape_.head_dim, seed);
    for (int i = 0; i < shape_.length; ++i) {
      for (int head = 0; head < shape_.kv_heads; ++head) {
        for (int64_t c = 0; c < cache.cols(); ++c) {
          cache.at(row_of(head, i), c) = random.at(i * shape_.kv_heads + head, c);
        }
      }
    }
    return cache;
  }

  CudaBackend* backend_;
  DType dtype_;
  Shape shape_;
  std::vector<int32_t> table_;
  DeviceMatrix keys_;
  DeviceMatrix values_;
  DeviceMatrix q_;
  Matrix host_keys_;
  Matrix host_values_;
  Matrix host_q_;
};

class CudaPagedAttention : public CudaTest {
 protected:
  // Weights are rounded to the activations' dtype before they meet the values, results once more.
  void expect_rows(const PagedSequence& sequence, const Matrix& y, int first, int step) {
    const Shape& shape = sequence.shape();
    for (int row = first; row < shape.length; row += step) {
      for (int head = 0; head < shape.heads; ++head) {
        const Attended expected = sequence.expected(row, head);
        for (int j = 0; j < shape.head_dim; ++j) {
          ASSERT_NEAR(y.at(row, head * shape.head_dim + j), expected.value[j],
                      2 * unit() * expected.magnitude[j] + 1e-5)
              << "row " << row << ", head " << head << " of " << shape.heads << ", head_dim "
              << shape.head_dim;
        }
      }
    }
  }
};
COGSERVE_CUDA_SUITE(CudaPagedAttention);

// Head sizes of the tensor core kernels: grouped 4 to 1 as in CogVLM2, 3 to 1, one to one, and a
// group that fills more than one matrix of 16 rows.
const Shape kTiledShapes[] = {{8, 2, 128, 16, 90}, {4, 1, 32, 16, 150}, {3, 3, 112, 7, 65},
                              {6, 2, 64, 5, 70},   {20, 1, 32, 64, 40}, {1, 1, 128, 1, 66},
                              {4, 4, 32, 3, 1}};
// All others, by the plain kernel.
const Shape kPlainShapes[] = {
    {4, 2, 48, 16, 40}, {1, 1, 2, 1, 20}, {3, 3, 6, 7, 33}, {2, 1, 20, 3, 1}, {5, 1, 250, 4, 9}};

TEST_P(CudaPagedAttention, of_whole_prompts_equals_a_plain_softmax) {
  for (const Shape& shape : kTiledShapes) {
    const PagedSequence sequence(backend(), dtype(), shape);
    expect_rows(sequence, sequence.run(shape.length), 0, 1);
  }
}

TEST_P(CudaPagedAttention, of_any_head_size_equals_a_plain_softmax) {
  for (const Shape& shape : kPlainShapes) {
    const PagedSequence sequence(backend(), dtype(), shape);
    expect_rows(sequence, sequence.run(shape.length), 0, 1);
    expect_rows(sequence, sequence.run(1), 0, 1);
  }
}

TEST_P(CudaPagedAttention, of_single_rows_equals_a_plain_softmax) {
  for (const Shape& shape : kTiledShapes) {
    const PagedSequence sequence(backend(), dtype(), shape);
    const int first = std::max(0, shape.length - 3);
    expect_rows(sequence, sequence.run(1, first), first, 1);
  }
}

TEST_P(CudaPagedAttention, of_a_row_is_the_same_however_many_blocks_share_its_splits) {
  for (const int head_dim : {32, 64, 112, 128}) {
    const PagedSequence sequence(backend(), dtype(), {4, 2, head_dim, 16, 700});  // 6 splits
    const Matrix expected = sequence.run_last(6);
    for (const int grid : {1, 2, 4, 9}) {
      EXPECT_TRUE(testing::same_bits(sequence.run_last(grid), expected))
          << grid << " blocks, head_dim " << head_dim;
    }
    const Matrix all = sequence.run(1, sequence.shape().length - 1);
    EXPECT_TRUE(testing::same_bits(all.tensor().row<float>(sequence.shape().length - 1),
                                   expected.tensor().row<float>(0), expected.cols()));
  }
}

TEST_P(CudaPagedAttention, of_a_long_sequence_merges_its_splits) {
  // 127 to 129 and 255 to 257 keys lie on both sides of a split's end.
  for (const int length : {129, 257, 400}) {
    const PagedSequence sequence(backend(), dtype(), {8, 2, 64, 16, length});
    expect_rows(sequence, sequence.run(1, length - 3), length - 3, 1);
  }
}

TEST_P(CudaPagedAttention, of_a_chunk_in_the_middle_starts_where_it_should) {
  const PagedSequence sequence(backend(), dtype(), {8, 2, 128, 16, 150});
  expect_rows(sequence, sequence.run(37, 101), 101, 1);
}

TEST_P(CudaPagedAttention, gives_a_row_the_same_bits_in_every_chunk_size) {
  // Chunks of two and more: a single row is attended to in splits.
  const PagedSequence sequence(backend(), dtype(), {4, 2, 32, 16, 130});
  const Matrix expected = sequence.run(130);
  for (const int chunk : {2, 10, 26, 65}) {
    EXPECT_TRUE(testing::same_bits(expected, sequence.run(chunk))) << "chunks of " << chunk;
  }
}

TEST_P(CudaPagedAttention, gives_a_row_the_same_bits_in_any_company) {
  const Shape shape{4, 2, 32, 16, 140};
  const PagedSequence sequence(backend(), dtype(), shape);
  const Matrix singly = sequence.run(1);
  const Matrix together = sequence.run(shape.length);
  // The sequence's rows 40..59 between decode rows 139, 3 and a prefill 0..9 of the same tokens.
  const std::vector<AttentionRun> runs = {
      {0, 1, 139, 0}, {1, 20, 40, 0}, {21, 1, 3, 0}, {22, 10, 0, 0}};
  std::vector<int> tokens;
  std::vector<bool> alone;
  for (const AttentionRun& run : runs) {
    for (int i = 0; i < run.row_count; ++i) {
      tokens.push_back(run.first_index + i);
      alone.push_back(run.row_count == 1);
    }
  }
  Matrix rows(tokens.size(), sequence.q().cols());
  for (size_t r = 0; r < tokens.size(); ++r) {
    for (int64_t c = 0; c < rows.cols(); ++c) rows.at(r, c) = sequence.q().at(tokens[r], c);
  }
  const DeviceMatrix q = put(rows), y = put(Matrix(rows.rows(), rows.cols()));
  backend().paged_attention(q.tensor(), shape.heads, runs, sequence.table(), sequence.layer(),
                            sequence.scale(), y.tensor());
  const Matrix out = y.read();
  for (size_t r = 0; r < tokens.size(); ++r) {
    const Matrix& expected = alone[r] ? singly : together;
    EXPECT_TRUE(testing::same_bits(out.tensor().row<float>(r),
                                   expected.tensor().row<float>(tokens[r]), out.cols()))
        << "token " << tokens[r];
  }
}

TEST_P(CudaPagedAttention, survives_scores_beyond_the_range_of_exp) {
  const PagedSequence sequence(backend(), dtype(), {1, 1, 32, 4, 140});
  Matrix large = sequence.q();
  for (int64_t r = 0; r < large.rows(); ++r) {
    for (int64_t c = 0; c < large.cols(); ++c) large.at(r, c) *= 1e3f;
  }
  const DeviceMatrix q = put(large), y = put(Matrix(large.rows(), large.cols()));
  const AttentionRun runs[] = {{0, 139, 0, 0}, {139, 1, 139, 0}};
  backend().paged_attention(q.tensor(), 1, runs, sequence.table(), sequence.layer(), 1.0f,
                            y.tensor());
  const Matrix out = y.read();
  for (int64_t r = 0; r < out.rows(); ++r) {
    for (int64_t c = 0; c < out.cols(); ++c) ASSERT_TRUE(std::isfinite(out.at(r, c)));
  }
}

class CudaDenseAttention : public CudaTest {};
COGSERVE_CUDA_SUITE(CudaDenseAttention);

TEST_P(CudaDenseAttention, equals_a_plain_softmax_for_odd_shapes) {
  for (const auto& [rows, heads, head_dim] : {std::tuple{1, 1, 32},
                                              {7, 2, 112},
                                              {65, 2, 64},
                                              {130, 1, 112},
                                              {21, 1, 112},
                                              {185, 2, 64},
                                              {64, 1, 128},
                                              {129, 1, 32},
                                              {33, 2, 10},
                                              {5, 3, 48}}) {
    const int width = heads * head_dim;
    const DeviceMatrix qkv = put(Matrix::random(rows, 3 * width, rows), 8);
    const DeviceMatrix y = put(Matrix(rows, width), 8);
    const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
    backend().dense_attention(qkv.tensor(), heads, head_dim, scale, y.tensor());
    const Matrix in = qkv.read(), out = y.read();
    for (int row = 0; row < rows; ++row) {
      for (int head = 0; head < heads; ++head) {
        const int column = head * head_dim;
        const Attended expected = attend(
            in.tensor().row<float>(row) + column, head_dim, scale, rows,
            [&](int i) { return in.tensor().row<float>(i) + width + column; },
            [&](int i) { return in.tensor().row<float>(i) + 2 * width + column; });
        for (int j = 0; j < head_dim; ++j) {
          ASSERT_NEAR(out.at(row, column + j), expected.value[j],
                      2 * unit() * expected.magnitude[j] + 1e-5)
              << rows << " x " << head_dim << ", row " << row;
        }
      }
    }
  }
}

// Where one key outweighs all others by far, its value is the result.
TEST_P(CudaDenseAttention, survives_scores_beyond_the_range_of_exp) {
  constexpr int kRows = 40, kHeadDim = 32;
  Matrix in = Matrix::random(kRows, 3 * kHeadDim, 1);
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < 2 * kHeadDim; ++c) in.at(r, c) *= 64.0f;
  }
  const DeviceMatrix qkv = put(in), y = put(Matrix(kRows, kHeadDim));
  backend().dense_attention(qkv.tensor(), 1, kHeadDim, 1.0f, y.tensor());
  const Matrix stored = qkv.read(), out = y.read();
  for (int row = 0; row < kRows; ++row) {
    const Attended expected = attend(
        stored.tensor().row<float>(row), kHeadDim, 1.0f, kRows,
        [&](int i) { return stored.tensor().row<float>(i) + kHeadDim; },
        [&](int i) { return stored.tensor().row<float>(i) + 2 * kHeadDim; });
    for (int j = 0; j < kHeadDim; ++j) {
      ASSERT_NEAR(out.at(row, j), expected.value[j], 0.02 * expected.magnitude[j]) << row;
    }
  }
}

class CudaRope : public CudaTest {};
COGSERVE_CUDA_SUITE(CudaRope);

TEST_P(CudaRope, rotates_halves_and_files_keys_and_values_under_their_slots) {
  constexpr int kHeads = 3, kKvHeads = 2, kPositions = 50, kBlocks = 6, kUnwritten = 100;
  for (const int head_dim : {2, 6, 32, 112}) {
    for (const int block_size : {1, 4, 16}) {
      const int rows = std::min(5, kBlocks * block_size);
      const DeviceMatrix qkv = put(Matrix::random(rows, (kHeads + 2 * kKvHeads) * head_dim, 1), 5);
      const Matrix original = qkv.read();
      const Matrix cos = Matrix::random(kPositions, head_dim / 2, 2);
      const Matrix sin = Matrix::random(kPositions, head_dim / 2, 3);
      const DeviceMatrix device_cos = put_f32(cos), device_sin = put_f32(sin, 2);
      const Matrix empty = filled(kBlocks * kKvHeads * block_size, head_dim, kUnwritten);
      const DeviceMatrix keys = put(empty), values = put(empty);
      const KvLayer kv{keys.tensor().data, values.tensor().data, dtype(), kBlocks,
                       kKvHeads,           block_size,           head_dim};
      std::vector<int32_t> positions;
      std::vector<int64_t> slots;
      for (int r = 0; r < rows; ++r) {
        positions.push_back((r * 7 + 3) % kPositions);
        slots.push_back((r * 5 + 1) % (kBlocks * block_size));
      }
      slots[2] = kNoSlot;
      backend().rope_and_store_kv(qkv.tensor(), kHeads, positions, slots,
                                  {device_cos.tensor(), device_sin.tensor()}, kv);
      const auto rotated = [&](int r, int head, int j) {
        const int half = head_dim / 2;
        const int i = j % half;
        const float a = original.at(r, head * head_dim + i);
        const float b = original.at(r, head * head_dim + half + i);
        const float c = cos.at(positions[r], i);
        const float s = sin.at(positions[r], i);
        const float exact = j < half ? a * c - b * s : b * c + a * s;
        return testing::value_of(testing::bits_of(exact, dtype()), dtype());
      };
      const Matrix out = qkv.read(), out_keys = keys.read(), out_values = values.read();
      for (int r = 0; r < rows; ++r) {
        for (int head = 0; head < kHeads; ++head) {
          for (int j = 0; j < head_dim; ++j) {
            ASSERT_EQ(out.at(r, head * head_dim + j), rotated(r, head, j));
          }
        }
        for (int head = 0; head < kKvHeads && slots[r] != kNoSlot; ++head) {
          const int64_t at =
              (slots[r] / block_size * kKvHeads + head) * block_size + slots[r] % block_size;
          for (int j = 0; j < head_dim; ++j) {
            ASSERT_EQ(out_keys.at(at, j), rotated(r, kHeads + head, j));
            ASSERT_EQ(out_values.at(at, j),
                      original.at(r, (kHeads + kKvHeads + head) * head_dim + j));
          }
        }
      }
      int64_t written = 0;
      for (int64_t r = 0; r < out_values.rows(); ++r) {
        for (int64_t c = 0; c < head_dim; ++c) written += out_values.at(r, c) != kUnwritten;
      }
      EXPECT_EQ(written, int64_t{rows - 1} * kKvHeads * head_dim);
    }
  }
}

TEST_P(CudaRope, refuses_slots_that_are_no_place_in_the_cache) {
  const DeviceMatrix qkv = put(Matrix::random(1, 3 * 8, 1)), cache = put(Matrix::random(4, 8, 2));
  const DeviceMatrix table = put_f32(Matrix::random(2, 4, 3));
  const KvLayer kv{cache.tensor().data, cache.tensor().data, dtype(), 2, 1, 2, 8};
  const std::vector<int32_t> positions = {1};
  for (const int64_t slot : {kNoSlot - 1, int64_t{4}}) {
    EXPECT_THROW(backend().rope_and_store_kv(qkv.tensor(), 1, positions, {&slot, 1},
                                             {table.tensor(), table.tensor()}, kv),
                 InvariantError);
  }
}

TEST_P(CudaRope, gives_a_row_the_same_bits_however_many_blocks_share_it) {
  constexpr int kHeads = 16, kKvHeads = 2, kHeadDim = 64, kBlockSize = 25, kBlocks = 41;
  constexpr int64_t kRows = kBlocks * kBlockSize;  // more than are shared out
  const Matrix before = Matrix::random(kRows, (kHeads + 2 * kKvHeads) * kHeadDim, 1);
  const Matrix empty = filled(kRows * kKvHeads, kHeadDim, 0.0f);
  const DeviceMatrix cos = put_f32(Matrix::random(kRows, kHeadDim / 2, 2));
  const DeviceMatrix sin = put_f32(Matrix::random(kRows, kHeadDim / 2, 3));
  std::vector<int32_t> positions(kRows);
  std::vector<int64_t> slots(kRows);
  std::iota(positions.begin(), positions.end(), 0);
  std::iota(slots.begin(), slots.end(), 0);
  const auto run = [&](int64_t chunk) {
    const DeviceMatrix qkv = put(before), keys = put(empty), values = put(empty);
    const KvLayer kv{keys.tensor().data, values.tensor().data, dtype(), kBlocks,
                     kKvHeads,           kBlockSize,           kHeadDim};
    for (int64_t begin = 0; begin < kRows; begin += chunk) {
      const int64_t count = std::min(chunk, kRows - begin);
      backend().rope_and_store_kv(
          qkv.tensor().slice_rows(begin, count), kHeads, std::span(positions).subspan(begin, count),
          std::span(slots).subspan(begin, count), {cos.tensor(), sin.tensor()}, kv);
    }
    return std::array{qkv.read(), keys.read(), values.read()};
  };
  const auto expected = run(kRows);
  for (const int64_t chunk : {400, 90}) {
    const auto shared = run(chunk);
    for (size_t i = 0; i < shared.size(); ++i) {
      EXPECT_TRUE(testing::same_bits(expected[i], shared[i])) << "chunks of " << chunk;
    }
  }
}

}  // namespace
}  // namespace cogserve
