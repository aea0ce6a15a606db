// Paged and dense attention, and the way into the cache, against plain loops; and bit for bit
// against themselves however rows are cut and whoever is beside them.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "engine/base/check.hpp"
#include "tests/engine/cpu_test_tools.hpp"

namespace cogserve {
namespace {

using testing::Matrix;

// softmax(scale * q k^T) v of one row over the first `limit` keys, in f64.
template <typename Key, typename Value>
std::vector<double> attend(const float* q, int head_dim, float scale, int limit, const Key& key,
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
  std::vector<double> result(head_dim, 0.0);
  for (int i = 0; i < limit; ++i) {
    for (int j = 0; j < head_dim; ++j) result[j] += weights[i] / sum * value(i)[j];
  }
  return result;
}

struct Shape {
  int heads;
  int kv_heads;
  int head_dim;
  int block_size;
  int length;
};

// One sequence whose keys and values lie scattered over a paged cache; unused slots hold NaN.
class PagedSequence {
 public:
  explicit PagedSequence(const Shape& shape)
      : shape_(shape),
        blocks_((shape.length + shape.block_size - 1) / shape.block_size + 3),
        keys_(empty_cache()),
        values_(empty_cache()),
        q_(Matrix::random(shape.length, shape.heads * shape.head_dim, 3, 9)),
        table_(blocks_ - 3) {
    // Neither in order nor from block 0.
    std::iota(table_.begin(), table_.end(), 1);
    std::reverse(table_.begin(), table_.begin() + static_cast<long>(table_.size() / 2));
    std::mt19937 generator(4);
    std::normal_distribution<float> normal;
    for (int i = 0; i < shape.length; ++i) {
      for (int head = 0; head < shape.kv_heads; ++head) {
        for (int j = 0; j < shape.head_dim; ++j) {
          keys_[at(head, i) + j] = normal(generator);
          values_[at(head, i) + j] = normal(generator);
        }
      }
    }
  }

  KvLayer layer() {
    return {keys_.data(),    values_.data(),    DType::kF32,    blocks_,
            shape_.kv_heads, shape_.block_size, shape_.head_dim};
  }

  std::vector<double> expected(int row, int head) const {
    const int kv_head = head / (shape_.heads / shape_.kv_heads);
    return attend(
        q_.tensor().row<float>(row) + head * shape_.head_dim, shape_.head_dim, scale(), row + 1,
        [&](int i) { return &keys_[at(kv_head, i)]; },
        [&](int i) { return &values_[at(kv_head, i)]; });
  }

  float scale() const { return 1.0f / std::sqrt(static_cast<float>(shape_.head_dim)); }
  const Matrix& q() const { return q_; }
  const std::vector<int32_t>& table() const { return table_; }

  // All rows, `chunk` at a time.
  Matrix run(CpuBackend& backend, int chunk) {
    Matrix y(q_.rows(), q_.cols(), 2);
    for (int begin = 0; begin < shape_.length; begin += chunk) {
      const int count = std::min(chunk, shape_.length - begin);
      const AttentionRun only{0, count, begin, 0};
      backend.paged_attention(q_.tensor().slice_rows(begin, count), shape_.heads, {&only, 1},
                              table_, layer(), scale(), y.tensor().slice_rows(begin, count));
    }
    EXPECT_TRUE(y.gaps_untouched());
    return y;
  }

 private:
  size_t at(int kv_head, int index) const {
    const size_t block = table_[index / shape_.block_size];
    return ((block * shape_.kv_heads + kv_head) * shape_.block_size + index % shape_.block_size) *
           shape_.head_dim;
  }

  std::vector<float> empty_cache() const {
    const size_t n = static_cast<size_t>(blocks_) * shape_.kv_heads * shape_.block_size;
    return std::vector<float>(n * shape_.head_dim, std::nanf(""));
  }

  Shape shape_;
  int blocks_;
  std::vector<float> keys_;
  std::vector<float> values_;
  Matrix q_;
  std::vector<int32_t> table_;
};

const Shape kShapes[] = {{4, 2, 32, 16, 150}, {1, 1, 2, 1, 70},   {3, 3, 6, 7, 65},
                         {8, 1, 48, 64, 129}, {6, 3, 64, 5, 200}, {4, 4, 112, 16, 40},
                         {8, 2, 128, 16, 90}, {2, 1, 20, 3, 1}};

TEST(CpuPagedAttention, equals_a_plain_softmax_for_odd_shapes) {
  CpuBackend backend(2);
  for (const Shape& shape : kShapes) {
    PagedSequence sequence(shape);
    const Matrix y = sequence.run(backend, shape.length);
    for (int row = 0; row < shape.length; ++row) {
      for (int head = 0; head < shape.heads; ++head) {
        const std::vector<double> expected = sequence.expected(row, head);
        for (int j = 0; j < shape.head_dim; ++j) {
          ASSERT_NEAR(y.at(row, head * shape.head_dim + j), expected[j], 3e-6)
              << "row " << row << ", head " << head << " of " << shape.heads << ", head_dim "
              << shape.head_dim;
        }
      }
    }
  }
}

TEST(CpuPagedAttention, gives_a_row_the_same_bits_in_every_chunk_size_and_thread_count) {
  CpuBackend reference(1);
  for (const Shape& shape : kShapes) {
    PagedSequence sequence(shape);
    const Matrix expected = sequence.run(reference, 1);
    for (const int threads : {1, 2, 3}) {
      CpuBackend backend(threads);
      for (const int chunk : {7, 16, 64, shape.length}) {
        EXPECT_TRUE(testing::same_bits(expected, sequence.run(backend, chunk)))
            << "chunks of " << chunk << ", " << threads << " threads, head_dim " << shape.head_dim;
      }
    }
  }
}

TEST(CpuPagedAttention, gives_a_row_the_same_bits_in_any_company) {
  const Shape shape{4, 2, 32, 16, 100};
  CpuBackend backend(2);
  PagedSequence sequence(shape);
  const Matrix expected = sequence.run(backend, 1);
  // The sequence's rows 40..59 between decode rows 99, 3 and a prefill 0..9 of the same tokens.
  const std::vector<AttentionRun> runs = {
      {0, 1, 99, 0}, {1, 20, 40, 0}, {21, 1, 3, 0}, {22, 10, 0, 0}};
  std::vector<int> rows;
  for (const AttentionRun& run : runs) {
    for (int i = 0; i < run.row_count; ++i) rows.push_back(run.first_index + i);
  }
  Matrix q(rows.size(), sequence.q().cols());
  for (size_t r = 0; r < rows.size(); ++r) {
    for (int64_t c = 0; c < q.cols(); ++c) q.at(r, c) = sequence.q().at(rows[r], c);
  }
  Matrix y(q.rows(), q.cols());
  backend.paged_attention(q.tensor(), shape.heads, runs, sequence.table(), sequence.layer(),
                          sequence.scale(), y.tensor());
  for (size_t r = 0; r < rows.size(); ++r) {
    EXPECT_TRUE(testing::same_bits(y.tensor().row<float>(r), expected.tensor().row<float>(rows[r]),
                                   y.cols()))
        << "token " << rows[r];
  }
}

TEST(CpuPagedAttention, survives_scores_beyond_the_range_of_exp) {
  // Scores of about +-1e4: one key takes all the weight, and nothing overflows.
  const Shape shape{1, 1, 8, 4, 80};
  CpuBackend backend(1);
  PagedSequence sequence(shape);
  Matrix q = sequence.q();
  for (int64_t r = 0; r < q.rows(); ++r) {
    for (int64_t c = 0; c < q.cols(); ++c) q.at(r, c) *= 1e4f;
  }
  Matrix y(q.rows(), q.cols());
  const AttentionRun run{0, shape.length, 0, 0};
  backend.paged_attention(q.tensor(), 1, {&run, 1}, sequence.table(), sequence.layer(), 1.0f,
                          y.tensor());
  for (int64_t r = 0; r < y.rows(); ++r) {
    for (int64_t c = 0; c < y.cols(); ++c) ASSERT_TRUE(std::isfinite(y.at(r, c)));
  }
}

TEST(CpuDenseAttention, equals_a_plain_softmax_for_odd_shapes) {
  CpuBackend backend(2);
  for (const auto& [rows, heads, head_dim] :
       {std::tuple{1, 1, 2}, {7, 2, 32}, {65, 3, 48}, {64, 1, 64}, {197, 2, 112}, {130, 1, 10}}) {
    const int width = heads * head_dim;
    const Matrix qkv = Matrix::random(rows, 3 * width, rows, 4);
    Matrix y(rows, width, 3);
    const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
    backend.dense_attention(qkv.tensor(), heads, head_dim, scale, y.tensor());
    EXPECT_TRUE(y.gaps_untouched());
    for (int row = 0; row < rows; ++row) {
      for (int head = 0; head < heads; ++head) {
        const int column = head * head_dim;
        const std::vector<double> expected = attend(
            qkv.tensor().row<float>(row) + column, head_dim, scale, rows,
            [&](int i) { return qkv.tensor().row<float>(i) + width + column; },
            [&](int i) { return qkv.tensor().row<float>(i) + 2 * width + column; });
        for (int j = 0; j < head_dim; ++j) {
          ASSERT_NEAR(y.at(row, column + j), expected[j], 3e-6) << rows << " x " << head_dim;
        }
      }
    }
  }
}

TEST(CpuDenseAttention, has_the_same_bits_for_every_thread_count) {
  const Matrix qkv = Matrix::random(230, 3 * 4 * 48, 1);
  Matrix expected(230, 4 * 48);
  CpuBackend(1).dense_attention(qkv.tensor(), 4, 48, 0.1f, expected.tensor());
  for (const int threads : {2, 3}) {
    Matrix y(230, 4 * 48);
    CpuBackend(threads).dense_attention(qkv.tensor(), 4, 48, 0.1f, y.tensor());
    EXPECT_TRUE(testing::same_bits(expected, y));
  }
}

TEST(CpuRope, rotates_halves_and_files_keys_and_values_under_their_slots) {
  constexpr int kHeads = 3, kKvHeads = 2, kPositions = 50, kBlocks = 6;
  for (const int head_dim : {2, 6, 32, 112}) {
    for (const int block_size : {1, 4, 16}) {
      CpuBackend backend(2);
      const int rows = std::min(5, kBlocks * block_size);
      const Matrix original = Matrix::random(rows, (kHeads + 2 * kKvHeads) * head_dim, 1, 5);
      Matrix qkv = original;
      const Matrix cos = Matrix::random(kPositions, head_dim / 2, 2);
      const Matrix sin = Matrix::random(kPositions, head_dim / 2, 3);
      const size_t size = static_cast<size_t>(kBlocks) * kKvHeads * block_size * head_dim;
      std::vector<float> keys(size, -1.0f), values(size, -1.0f);
      const KvLayer kv{keys.data(), values.data(), DType::kF32, kBlocks,
                       kKvHeads,    block_size,    head_dim};
      std::vector<int32_t> positions;
      std::vector<int64_t> slots;
      for (int r = 0; r < rows; ++r) {
        positions.push_back((r * 7 + 3) % kPositions);
        slots.push_back((r * 5 + 1) % (kBlocks * block_size));
      }
      slots[2] = kNoSlot;
      std::vector<int64_t> outside = slots;
      outside[0] = kNoSlot - 1;
      EXPECT_THROW(backend.rope_and_store_kv(qkv.tensor(), kHeads, positions, outside,
                                             {cos.tensor(), sin.tensor()}, kv),
                   InvariantError);
      backend.rope_and_store_kv(qkv.tensor(), kHeads, positions, slots,
                                {cos.tensor(), sin.tensor()}, kv);
      const auto rotated = [&](int r, int head, int j) {
        const int half = head_dim / 2;
        const int i = j % half;
        const float a = original.at(r, head * head_dim + i);
        const float b = original.at(r, head * head_dim + half + i);
        const float c = cos.at(positions[r], i);
        const float s = sin.at(positions[r], i);
        return j < half ? a * c - b * s : b * c + a * s;
      };
      for (int r = 0; r < rows; ++r) {
        for (int head = 0; head < kHeads; ++head) {
          for (int j = 0; j < head_dim; ++j) {
            ASSERT_EQ(qkv.at(r, head * head_dim + j), rotated(r, head, j));
          }
        }
        for (int head = 0; head < kKvHeads && slots[r] != kNoSlot; ++head) {
          const size_t at =
              ((slots[r] / block_size * kKvHeads + head) * block_size + slots[r] % block_size) *
              head_dim;
          for (int j = 0; j < head_dim; ++j) {
            ASSERT_EQ(keys[at + j], rotated(r, kHeads + head, j));
            ASSERT_EQ(values[at + j], original.at(r, (kHeads + kKvHeads + head) * head_dim + j));
          }
        }
      }
      const size_t written =
          std::count_if(values.begin(), values.end(), [](float value) { return value != -1.0f; });
      EXPECT_EQ(written, static_cast<size_t>(rows - 1) * kKvHeads * head_dim);
    }
  }
}

}  // namespace
}  // namespace cogserve
