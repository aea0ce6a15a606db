// Sampling of the CUDA backend: token by token against the CPU backend, whose draws are checked
// against exact probabilities elsewhere.
#include <cmath>
#include <limits>

#include "tests/engine/cuda_test_tools.hpp"

namespace cogserve {
namespace {

using testing::DeviceMatrix;
using testing::Matrix;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

class CudaSampling : public testing::CudaTest {
 protected:
  // Both backends' tokens must be the same; so must log-probabilities up to rounding.
  void expect_same(const Matrix& logits, const std::vector<SampleRow>& rows) {
    const DeviceMatrix device = put_f32(logits, 3);
    std::vector<SampledToken> tokens(rows.size()), expected(rows.size());
    testing::sample(backend(), device.tensor(), rows, tokens);
    CpuBackend cpu(1);
    testing::sample(cpu, logits.tensor(), rows, expected);
    for (size_t i = 0; i < rows.size(); ++i) {
      ASSERT_EQ(tokens[i].finite, expected[i].finite) << "row " << i;
      ASSERT_EQ(tokens[i].id, expected[i].id) << "row " << i;
      ASSERT_NEAR(tokens[i].logprob, expected[i].logprob, 3e-6) << "row " << i;
      ASSERT_EQ(tokens[i].top.size(), expected[i].top.size()) << "row " << i;
      for (size_t j = 0; j < tokens[i].top.size(); ++j) {
        ASSERT_EQ(tokens[i].top[j].id, expected[i].top[j].id) << "row " << i << ", place " << j;
        ASSERT_NEAR(tokens[i].top[j].logprob, expected[i].top[j].logprob, 3e-6);
      }
    }
  }

  static Matrix repeated(const std::vector<float>& logits, size_t rows) {
    Matrix matrix(static_cast<int64_t>(rows), static_cast<int64_t>(logits.size()));
    for (size_t r = 0; r < rows; ++r) {
      std::copy(logits.begin(), logits.end(), matrix.tensor().row<float>(static_cast<int64_t>(r)));
    }
    return matrix;
  }
};
// Logits are f32 whatever the activations are.
INSTANTIATE_TEST_SUITE_P(Dtypes, CudaSampling, ::testing::Values(DType::kBF16),
                         testing::dtype_test_name);

const std::vector<float> kLogits = {1.0f, 3.0f, -1.0f, 2.5f, 0.0f, 2.0f, -2.0f, 0.5f};

TEST_P(CudaSampling, every_combination_of_cuts_draws_what_the_cpu_draws) {
  // A few large logits over a floor with many equal ones, so that cuts fall among ties too.
  for (const int vocab : {37, 1500}) {
    constexpr int kRows = 32;
    Matrix logits = Matrix::random(kRows, vocab, 5);
    std::vector<SampleRow> rows(kRows);
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < vocab; ++c) logits.at(r, c) = std::round(logits.at(r, c) * 2.0f);
      logits.at(r, vocab / 2) = 6.0f;
      logits.at(r, (r * 5) % vocab) = -kInfinity;
      SamplingParams& params = rows[r].params;
      params.temperature = r % 3 == 0 ? 0.7f : 1.3f;
      params.top_k = r % 4 < 2 ? 0 : r + 1;
      params.top_p = r % 8 < 4 ? 1.0f : 0.2f + 0.015f * static_cast<float>(r);
      params.min_p = r % 16 < 8 ? 0.0f : 0.02f;
      params.seed = 77 + r;
    }
    expect_same(logits, rows);
  }
}

TEST_P(CudaSampling, temperature_zero_takes_the_largest_and_of_equals_the_lowest_id) {
  std::vector<float> wide(1100, 0.0f);
  wide[777] = wide[999] = wide[1099] = 1.0f;
  SampleRow row;
  row.params.temperature = 0.0f;
  expect_same(repeated(wide, 1), {row});
  expect_same(repeated({-0.0f, 0.0f, -1.0f}, 1), {row});  // one and the same zero
}

TEST_P(CudaSampling, ties_at_a_cut_are_kept_by_the_lowest_ids) {
  std::vector<SampleRow> rows(10);
  for (size_t r = 0; r < rows.size(); ++r) {
    rows[r].params.seed = r;
    if (r % 2 == 0) rows[r].params.top_k = 2;
    if (r % 2 == 1) rows[r].params.top_p = 0.5f;
  }
  expect_same(repeated({2.0f, 2.0f, 2.0f, 2.0f}, rows.size()), rows);
  expect_same(repeated({-0.0f, 0.0f, 0.0f, -0.0f}, rows.size()), rows);
}

TEST_P(CudaSampling, sums_over_a_whole_vocabulary_lose_nothing) {
  // The largest weights that there are, in one bin at every digit.
  const std::vector<float> logits(size_t{1} << 17, 0.5f);
  std::vector<SampleRow> rows(3);
  for (size_t r = 0; r < rows.size(); ++r) {
    rows[r].params.seed = r;
    rows[r].params.logprobs = 1;
  }
  rows[1].params.top_p = 0.5f;
  rows[2].params.top_k = 100'001;
  expect_same(repeated(logits, rows.size()), rows);
}

TEST_P(CudaSampling, draws_follow_the_softmax) {
  constexpr int kDraws = 150;
  const std::vector<int32_t> outputs(kDraws, -1);
  std::vector<SampleRow> rows(kDraws);
  for (int i = 0; i < kDraws; ++i) rows[i].output_ids = {outputs.data(), static_cast<size_t>(i)};
  const DeviceMatrix logits = put_f32(repeated({0.0f, 1.0f, 2.0f}, kDraws));
  std::vector<SampledToken> tokens(kDraws);
  testing::sample(backend(), logits.tensor(), rows, tokens);
  const double sum = 1.0 + std::exp(1.0) + std::exp(2.0);
  double chi_square = 0.0;
  for (int id = 0; id < 3; ++id) {
    const double mean = kDraws * std::exp(id) / sum;
    const auto came = std::count_if(tokens.begin(), tokens.end(),
                                    [&](const SampledToken& token) { return token.id == id; });
    chi_square += (came - mean) * (came - mean) / mean;
  }
  EXPECT_LT(chi_square, 20.0);
}

TEST_P(CudaSampling, penalties_and_bans_choose_what_the_cpu_chooses) {
  const std::vector<int32_t> prompt = {1, 1, 2, 99999, -5};
  const std::vector<int32_t> output = {3, 3, 1, -1, 8};
  const std::vector<int32_t> banned = {3, 12345, -7};
  std::vector<SampleRow> rows;
  for (int i = 0; i < 36; ++i) {
    SampleRow row;
    row.params.temperature = i % 2 == 0 ? 0.0f : 1.0f;
    row.params.seed = i;
    row.params.logprobs = 2;
    row.params.repetition_penalty = i % 3 == 0 ? 2.0f : 1.0f;
    row.params.presence_penalty = i % 5 < 2 ? 0.5f : 0.0f;
    row.params.frequency_penalty = i % 7 < 3 ? 0.4f : -0.1f;
    if (i % 4 != 1) row.prompt_ids = prompt;
    if (i % 4 != 2) row.output_ids = output;
    if (i % 4 == 3) row.banned_ids = banned;
    rows.push_back(row);
  }
  expect_same(repeated(kLogits, rows.size()), rows);  // more than one launch takes
  expect_same(repeated(kLogits, rows.size()), rows);  // and nothing was left behind
}

// The threads that ban are not those that look at what they banned.
TEST_P(CudaSampling, bans_alone_choose_what_the_cpu_chooses) {
  const std::vector<int32_t> banned = {900, 40, 3, 999, 900};
  Matrix logits = Matrix::random(2, 1000, 5);
  SampleRow row;
  row.params.temperature = 0.0f;
  row.banned_ids = banned;
  for (const int32_t id : banned) {
    for (int64_t r = 0; r < 2; ++r) logits.at(r, id) = 10.0f + static_cast<float>(id);
  }
  SampleRow draw = row;
  draw.params.temperature = 1.0f;
  expect_same(logits, {row, draw});
}

TEST_P(CudaSampling, log_probabilities_are_those_of_the_raw_logits) {
  std::vector<SampleRow> rows(5);
  const int wanted[] = {-1, 0, 3, 8, 20};
  for (int i = 0; i < 5; ++i) {
    rows[i].params.logprobs = wanted[i];
    rows[i].params.temperature = 0.3f;
    rows[i].params.seed = i;
  }
  expect_same(repeated(kLogits, 5), rows);
  Matrix ties = Matrix::random(5, 900, 3);
  for (int64_t r = 0; r < 5; ++r) {
    for (int64_t c = 0; c < 900; ++c) ties.at(r, c) = std::round(ties.at(r, c));
  }
  expect_same(ties, rows);
}

TEST_P(CudaSampling, the_smallest_temperature_is_as_good_as_greedy) {
  std::vector<SampleRow> rows;
  for (const float temperature : {std::numeric_limits<float>::denorm_min(), 1e-38f, 1e-6f}) {
    for (const float top_p : {1.0f, 0.5f}) {
      SampleRow row;
      row.params.temperature = temperature;
      row.params.top_p = top_p;
      rows.push_back(row);
    }
  }
  expect_same(repeated(kLogits, rows.size()), rows);
}

TEST_P(CudaSampling, a_row_that_is_not_finite_has_no_token_and_harms_no_other) {
  const float nan = std::nanf("");
  for (const std::vector<float>& bad :
       {std::vector<float>(8, -kInfinity), std::vector<float>{0, 1, nan, 3, 4, 5, 6, 7},
        std::vector<float>{0, 1, 2, 3, 4, 5, 6, kInfinity}, std::vector<float>(8, nan)}) {
    Matrix logits = repeated(kLogits, 2);
    std::copy(bad.begin(), bad.end(), logits.tensor().row<float>(0));
    expect_same(logits, std::vector<SampleRow>(2));
  }
  const std::vector<int32_t> banned = {0, 1, 2, 3, 4, 5, 6, 7};
  SampleRow row;
  row.banned_ids = banned;
  row.params.logprobs = 3;
  expect_same(repeated(kLogits, 1), {row});
}

}  // namespace
}  // namespace cogserve
