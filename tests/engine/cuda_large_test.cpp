// The CUDA backend at the sizes of CogVLM2, too large for the emulator: a sample of the results
// against f64 sums over what the 16-bit inputs really hold.
#include <cmath>
#include <numeric>

#include "tests/engine/cuda_test_tools.hpp"
#include "tests/engine/random_weight.hpp"

namespace cogserve {
namespace {

using testing::CudaTest;
using testing::DeviceMatrix;
using testing::Matrix;
using testing::RandomWeight;
using testing::StoredTensor;

class CudaLarge : public CudaTest {
 protected:
  // Small numbers, so that sums of thousands of products stay in f16's range.
  static Matrix small(int64_t rows, int64_t cols, uint32_t seed) {
    Matrix matrix = Matrix::random(rows, cols, seed);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) matrix.at(r, c) *= 0.1f;
    }
    return matrix;
  }
};
COGSERVE_CUDA_SUITE(CudaLarge);

TEST_P(CudaLarge, linear_equals_a_plain_loop_at_every_kind_of_size) {
  // Decoder, tower and patch embedding (whose rows are aligned to 8 bytes only).
  for (const auto& [out, in] : {std::pair{4096, 4096}, {1792, 588}, {5376, 1792}}) {
    const Weight weight =
        *backend().load_weight(dense_weight(StoredTensor(small(out, in, 1), dtype()).host()));
    const Matrix w = put(small(out, in, 1)).read();
    const Matrix bias = put(Matrix::random(1, out, 2)).read();
    const Parameter bias_vector = load_vector(bias);
    for (const int64_t rows : {1, 5, 8, 9, 33, 51, 100, 513, 1025, 2305}) {
      const DeviceMatrix x = put(Matrix::random(rows, in, 3));
      const DeviceMatrix y = put(Matrix(rows, out));
      backend().linear(x.tensor(), weight, &bias_vector.tensor, y.tensor());
      const Matrix in_rows = x.read(), out_rows = y.read();
      for (int64_t r = 0; r < rows; r += std::max<int64_t>(1, rows / 3)) {
        for (int64_t o = 0; o < out; o += 61) {
          double sum = bias.at(0, o);
          double magnitude = std::fabs(sum);
          for (int64_t k = 0; k < in; ++k) {
            sum += static_cast<double>(in_rows.at(r, k)) * w.at(o, k);
            magnitude += std::fabs(static_cast<double>(in_rows.at(r, k)) * w.at(o, k));
          }
          ASSERT_NEAR(out_rows.at(r, o), sum, unit() * std::fabs(sum) + 1e-5 * magnitude)
              << rows << " rows, " << out << " x " << in << ", row " << r << ", output " << o;
        }
      }
    }
  }
}

TEST_P(CudaLarge, a_quantised_weight_that_comes_in_parts_is_whole) {
  constexpr int64_t kOut = 16000, kIn = 4096;  // parts of 15184 outputs
  const RandomWeight w({WeightFormat::kInt4, 128, true}, kOut, kIn, 1);
  const Weight weight = *backend().load_weight(w.host());
  for (const int64_t rows : {1, 70}) {  // 70: unpacked into one place and multiplied, by turns
    const DeviceMatrix x = put(small(rows, kIn, 3)), y = put(Matrix(rows, kOut));
    backend().linear(x.tensor(), weight, nullptr, y.tensor());
    const Matrix in = x.read(), out = y.read();
    const double rounding = rows == 1 ? 1e-5 : unit();
    for (const int64_t o : {0, 15, 4095, 4096, 7000, 15168, 15183, 15184, 15199, 15200, 15999}) {
      double sum = 0.0, magnitude = 0.0;
      for (int64_t k = 0; k < kIn; ++k) {
        const double product =
            static_cast<double>(in.at(rows - 1, k)) * weight_value(w.host(), o, k);
        sum += product;
        magnitude += std::fabs(product);
      }
      EXPECT_NEAR(out.at(rows - 1, o), sum, unit() * std::fabs(sum) + rounding * magnitude)
          << rows << " rows, output " << o;
    }
  }
}

TEST_P(CudaLarge, attention_of_a_whole_picture_equals_a_plain_softmax) {
  constexpr int kRows = 9217, kHeads = 2, kHeadDim = 112, kWidth = kHeads * kHeadDim;
  const DeviceMatrix qkv = put(Matrix::random(kRows, 3 * kWidth, 1));
  const DeviceMatrix y = put(Matrix(kRows, kWidth));
  const float scale = 1.0f / std::sqrt(static_cast<float>(kHeadDim));
  backend().dense_attention(qkv.tensor(), kHeads, kHeadDim, scale, y.tensor());
  const Matrix in = qkv.read(), out = y.read();
  for (const int row : {0, 63, 64, 127, 128, 5000, 9215, 9216}) {
    for (int head = 0; head < kHeads; ++head) {
      const int column = head * kHeadDim;
      std::vector<double> value(kHeadDim), magnitude(kHeadDim);
      double sum = 0.0;
      for (int key = 0; key < kRows; ++key) {
        double score = 0.0;
        for (int j = 0; j < kHeadDim; ++j) {
          score += static_cast<double>(in.at(row, column + j)) * in.at(key, kWidth + column + j);
        }
        const double weight = std::exp(score * scale);
        sum += weight;
        for (int j = 0; j < kHeadDim; ++j) {
          const double v = in.at(key, 2 * kWidth + column + j);
          value[j] += weight * v;
          magnitude[j] += weight * std::fabs(v);
        }
      }
      for (int j = 0; j < kHeadDim; ++j) {
        ASSERT_NEAR(out.at(row, column + j), value[j] / sum,
                    unit() * std::fabs(value[j] / sum) + unit() * magnitude[j] / sum / 4)
            << "row " << row << ", head " << head;
      }
    }
  }
}

TEST_P(CudaLarge, a_prompt_fed_in_chunks_or_by_single_rows_gives_the_same_within_rounding) {
  constexpr int kLength = 2400, kHeads = 32, kKvHeads = 8, kHeadDim = 128, kBlock = 16;
  constexpr int kBlocks = kLength / kBlock;
  const DeviceMatrix keys = put(Matrix::random(kLength * kKvHeads, kHeadDim, 1));
  const DeviceMatrix values = put(Matrix::random(kLength * kKvHeads, kHeadDim, 2));
  const DeviceMatrix q = put(Matrix::random(kLength, kHeads * kHeadDim, 3));
  const KvLayer kv{
      keys.tensor().data, values.tensor().data, dtype(), kBlocks, kKvHeads, kBlock, kHeadDim};
  std::vector<int32_t> table(kBlocks);
  for (int i = 0; i < kBlocks; ++i) table[i] = i * 7 % kBlocks;
  const float scale = 1.0f / std::sqrt(static_cast<float>(kHeadDim));
  const auto run = [&](int begin, int count) {
    const DeviceMatrix y = put(Matrix(count, kHeads * kHeadDim));
    const AttentionRun only{0, count, begin, 0};
    backend().paged_attention(q.tensor().slice_rows(begin, count), kHeads, {&only, 1}, table, kv,
                              scale, y.tensor());
    return y.read();
  };
  const Matrix whole = run(0, kLength);
  const Matrix chunk = run(2048, 352);
  for (int r = 0; r < 352; ++r) {
    ASSERT_TRUE(testing::same_bits(whole.tensor().row<float>(2048 + r),
                                   chunk.tensor().row<float>(r), whole.cols()));
  }
  for (const int token : {0, 1, 127, 128, 1000, 2399}) {
    const Matrix single = run(token, 1);
    for (int64_t c = 0; c < single.cols(); ++c) {
      ASSERT_NEAR(single.at(0, c), whole.at(token, c), 3 * unit()) << "token " << token;
    }
  }
}

TEST_P(CudaLarge, sampling_the_whole_vocabulary_is_what_the_cpu_does) {
  constexpr int kRows = 70, kVocab = 128256;  // more rows than one launch takes
  const Matrix logits = [] {
    Matrix matrix = Matrix::random(kRows, kVocab, 5);
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kVocab; ++c) matrix.at(r, c) *= 2.0f;
    }
    return matrix;
  }();
  const DeviceMatrix device = put_f32(logits);
  std::vector<SampleRow> rows(kRows);
  for (int r = 0; r < kRows; ++r) {
    rows[r].params.temperature = r % 5 == 0 ? 0.0f : 0.6f;
    rows[r].params.top_p = r % 2 == 0 ? 0.9f : 1.0f;
    rows[r].params.top_k = r % 3 == 0 ? 50 : 0;
    rows[r].params.seed = r;
    rows[r].params.logprobs = r % 7 == 0 ? 20 : -1;
  }
  std::vector<SampledToken> tokens(kRows), expected(kRows);
  testing::sample(backend(), device.tensor(), rows, tokens);
  CpuBackend cpu(0);
  testing::sample(cpu, logits.tensor(), rows, expected);
  int different = 0;
  for (int r = 0; r < kRows; ++r) {
    different += tokens[r].id != expected[r].id;
    ASSERT_EQ(tokens[r].top.size(), expected[r].top.size());
    for (size_t i = 0; i < tokens[r].top.size(); ++i) {
      EXPECT_EQ(tokens[r].top[i].id, expected[r].top[i].id);
      EXPECT_NEAR(tokens[r].top[i].logprob, expected[r].top[i].logprob, 3e-6);
    }
  }
  // Exponentials differ in the last place: a draw that falls on a boundary may go either way.
  EXPECT_LE(different, 1);
}

}  // namespace
}  // namespace cogserve
