// Sampling: the effect of every parameter, draws against exact probabilities, and reproducibility.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "engine/backend/cpu/random.hpp"
#include "engine/base/check.hpp"
#include "tests/engine/cpu_test_tools.hpp"

namespace cogserve {
namespace {

using testing::Matrix;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

SamplingParams greedy() {
  SamplingParams params;
  params.temperature = 0.0f;
  return params;
}

SampledToken sample_one(const std::vector<float>& logits, const SampleRow& row) {
  static CpuBackend backend(1);
  Matrix matrix(1, logits.size());
  std::copy(logits.begin(), logits.end(), matrix.tensor().row<float>(0));
  SampledToken token;
  testing::sample(backend, matrix.tensor(), {&row, 1}, {&token, 1});
  return token;
}

// How often each token comes in `draws` draws with output indices 0, 1, 2...
std::vector<int> histogram(const std::vector<float>& logits, const SamplingParams& params,
                           int draws) {
  static CpuBackend backend(1);
  const std::vector<int32_t> outputs(draws, -1);  // no id of the vocabulary: no penalty
  Matrix matrix(draws, logits.size());
  std::vector<SampleRow> rows(draws);
  for (int i = 0; i < draws; ++i) {
    std::copy(logits.begin(), logits.end(), matrix.tensor().row<float>(i));
    rows[i] = {params, {}, {outputs.data(), static_cast<size_t>(i)}, {}};
  }
  std::vector<SampledToken> tokens(draws);
  testing::sample(backend, matrix.tensor(), rows, tokens);
  std::vector<int> counts(logits.size());
  for (const SampledToken& token : tokens) ++counts.at(token.id);
  return counts;
}

std::vector<double> softmax(const std::vector<float>& logits, double temperature) {
  std::vector<double> weights;
  double sum = 0.0;
  for (float logit : logits) weights.push_back(std::exp(logit / temperature));
  for (double weight : weights) sum += weight;
  for (double& weight : weights) weight /= sum;
  return weights;
}

std::vector<double> only(std::vector<double> probabilities, const std::vector<int>& ids) {
  std::vector<double> kept(probabilities.size());
  double sum = 0.0;
  for (int id : ids) sum += probabilities[id];
  for (int id : ids) kept[id] = probabilities[id] / sum;
  return kept;
}

// Chi-square with few degrees of freedom: 40 is beyond the 1e-5 quantile up to 9 of them.
void expect_distribution(const std::vector<int>& counts, const std::vector<double>& expected) {
  const int draws = std::accumulate(counts.begin(), counts.end(), 0);
  double chi_square = 0.0;
  for (size_t i = 0; i < counts.size(); ++i) {
    if (expected[i] == 0.0) {
      EXPECT_EQ(counts[i], 0) << "token " << i << " must never come";
      continue;
    }
    const double mean = expected[i] * draws;
    chi_square += (counts[i] - mean) * (counts[i] - mean) / mean;
  }
  EXPECT_LT(chi_square, 40.0);
}

// Descending, but not in order of ids.
const std::vector<float> kLogits = {1.0f, 3.0f, -1.0f, 2.5f, 0.0f, 2.0f, -2.0f, 0.5f};
constexpr int kDraws = 20000;

TEST(Philox, gives_the_published_vectors) {
  EXPECT_EQ(cpu::philox({0, 0, 0, 0}, {0, 0}),
            (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(cpu::philox({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}),
            (std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
}

TEST(Sampling, temperature_zero_takes_the_largest_and_of_equals_the_lowest_id) {
  EXPECT_EQ(sample_one(kLogits, {greedy(), {}, {}, {}}).id, 1);
  EXPECT_EQ(sample_one({0.0f, 2.0f, 1.0f, 2.0f, 2.0f}, {greedy(), {}, {}, {}}).id, 1);
  std::vector<float> wide(1000, 0.0f);
  wide[777] = wide[999] = 1.0f;
  EXPECT_EQ(sample_one(wide, {greedy(), {}, {}, {}}).id, 777);
}

TEST(Sampling, draws_follow_the_softmax_at_every_temperature) {
  for (const float temperature : {0.3f, 1.0f, 2.5f}) {
    SamplingParams params;
    params.temperature = temperature;
    params.seed = 11;
    expect_distribution(histogram(kLogits, params, kDraws), softmax(kLogits, temperature));
  }
}

TEST(Sampling, top_k_keeps_the_k_largest) {
  SamplingParams params;
  params.top_k = 3;
  expect_distribution(histogram(kLogits, params, kDraws), only(softmax(kLogits, 1.0), {1, 3, 5}));
  params.top_k = 1;
  expect_distribution(histogram(kLogits, params, 50), only(softmax(kLogits, 1.0), {1}));
  params.top_k = 100;
  expect_distribution(histogram(kLogits, params, kDraws), softmax(kLogits, 1.0));
  params.top_k = 2;  // of equals the lowest ids
  expect_distribution(histogram({1.0f, 2.0f, 2.0f, 2.0f}, params, kDraws), {0.0, 0.5, 0.5, 0.0});
}

TEST(Sampling, top_p_keeps_the_smallest_set_that_reaches_it) {
  const std::vector<double> p = softmax(kLogits, 1.0);
  SamplingParams params;
  params.top_p = static_cast<float>(p[1] + p[3] - 1e-4);
  expect_distribution(histogram(kLogits, params, kDraws), only(p, {1, 3}));
  params.top_p = static_cast<float>(p[1] + p[3] + 1e-4);
  expect_distribution(histogram(kLogits, params, kDraws), only(p, {1, 3, 5}));
  params.top_p = 1e-6f;  // at least one token
  expect_distribution(histogram(kLogits, params, 50), only(p, {1}));
  params.top_p = 0.5f;  // exactly reached by two of four equals: those with the lowest ids
  expect_distribution(histogram({2.0f, 2.0f, 2.0f, 2.0f}, params, kDraws), {0.5, 0.5, 0.0, 0.0});
}

TEST(Sampling, top_p_counts_what_top_k_left) {
  const std::vector<double> p = softmax(kLogits, 1.0);
  SamplingParams params;
  params.top_k = 2;
  params.top_p = static_cast<float>(p[1] / (p[1] + p[3]) - 1e-4);
  expect_distribution(histogram(kLogits, params, kDraws), only(p, {1}));
  params.top_p = static_cast<float>(p[1] / (p[1] + p[3]) + 1e-4);
  expect_distribution(histogram(kLogits, params, kDraws), only(p, {1, 3}));
}

// What top_k cuts off may be most of the whole: hundreds of small weights.
TEST(Sampling, top_p_does_not_count_a_long_tail_that_top_k_cut_off) {
  std::vector<float> logits(602, -5.0f);
  logits[0] = 0.0f;
  logits[1] = -1.0f;
  SamplingParams params;
  params.top_k = 2;
  params.top_p = 0.7f;  // of the two, the first has 0.73
  expect_distribution(histogram(logits, params, 50), only(softmax(logits, 1.0), {0}));
}

TEST(Sampling, min_p_is_relative_to_the_likeliest) {
  SamplingParams params;
  params.min_p = std::exp(-1.01f);  // tokens with logits within 1.01 of the largest
  expect_distribution(histogram(kLogits, params, kDraws), only(softmax(kLogits, 1.0), {1, 3, 5}));
  params.min_p = 1.0f;
  expect_distribution(histogram(kLogits, params, 50), only(softmax(kLogits, 1.0), {1}));
}

TEST(Sampling, cuts_a_wide_flat_vocabulary_like_a_sort_would) {
  // So flat that the cut lies among thousands of small weights.
  constexpr int kVocab = 5000;
  const Matrix random = Matrix::random(1, kVocab, 5);
  std::vector<float> logits(kVocab);
  for (int i = 0; i < kVocab; ++i) logits[i] = std::round(random.at(0, i) * 8.0f) / 8.0f;
  logits[1234] = 14.0f;  // the few large weights are not enough for top_p
  std::vector<int> order(kVocab);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
  const std::vector<double> p = softmax(logits, 1.0);
  SamplingParams params;
  params.top_p = 0.999f;
  size_t size = 0;
  for (double mass = 0.0; mass < params.top_p; ++size) mass += p[order[size]];
  std::vector<bool> allowed(kVocab);
  for (size_t i = 0; i < size; ++i) allowed[order[i]] = true;
  const std::vector<int> counts = histogram(logits, params, 3000);
  for (int i = 0; i < kVocab; ++i) EXPECT_TRUE(counts[i] == 0 || allowed[i]) << i;
  // The last member itself: with all weight taken off the others it must still be drawn.
  params.top_k = static_cast<int>(size);
  params.top_p = 1.0f;
  const std::vector<int> by_k = histogram(logits, params, 3000);
  for (int i = 0; i < kVocab; ++i) EXPECT_TRUE(by_k[i] == 0 || allowed[i]) << i;
}

TEST(Sampling, repetition_penalty_divides_positive_and_multiplies_negative_logits_once) {
  SamplingParams params = greedy();
  params.repetition_penalty = 2.0f;
  const std::vector<int32_t> prompt = {1, 1, 2};
  const std::vector<int32_t> output = {3, 3, 1};
  // 3.0 -> 1.5 and 2.5 -> 1.25, each once; 2.0 stays and wins.
  EXPECT_EQ(sample_one(kLogits, {params, prompt, output, {}}).id, 5);
  // -0.5 -> -1.0 falls behind -0.9.
  EXPECT_EQ(sample_one({-0.5f, -0.9f}, {params, {}, std::vector<int32_t>{0}, {}}).id, 1);
}

TEST(Sampling, presence_counts_once_and_frequency_each_time_and_neither_the_prompt) {
  const std::vector<float> logits = {1.0f, 1.9f, 2.0f};
  const std::vector<int32_t> prompt = {2, 2, 2};
  const std::vector<int32_t> output = {1, 2, 2};
  SamplingParams params = greedy();
  params.presence_penalty = 0.5f;
  EXPECT_EQ(sample_one(logits, {params, prompt, output, {}}).id, 2);
  EXPECT_EQ(sample_one(logits, {params, prompt, std::vector<int32_t>{2, 2}, {}}).id, 1);
  EXPECT_EQ(sample_one(logits, {params, prompt, {}, {}}).id, 2);
  params.presence_penalty = 0.0f;
  params.frequency_penalty = 0.4f;
  EXPECT_EQ(sample_one(logits, {params, prompt, output, {}}).id, 1);
  params.frequency_penalty = -1.0f;  // a reward
  EXPECT_EQ(sample_one(logits, {params, prompt, std::vector<int32_t>{0, 0}, {}}).id, 0);
}

TEST(Sampling, penalties_leave_nothing_behind_for_the_next_row) {
  SamplingParams params = greedy();
  params.frequency_penalty = 1.0f;
  const std::vector<int32_t> output = {1, 1, 1, 1, 99999, -5};
  EXPECT_EQ(sample_one(kLogits, {params, output, output, {}}).id, 3);
  EXPECT_EQ(sample_one(kLogits, {params, {}, std::vector<int32_t>{3}, {}}).id, 1);
}

TEST(Sampling, banned_tokens_never_come) {
  const std::vector<int32_t> banned = {1, 3, 12345};
  EXPECT_EQ(sample_one(kLogits, {greedy(), {}, {}, banned}).id, 5);
  SamplingParams params;
  for (uint64_t seed = 0; seed < 300; ++seed) {
    params.seed = seed;
    const int32_t id = sample_one(kLogits, {params, {}, {}, banned}).id;
    EXPECT_TRUE(id != 1 && id != 3);
  }
}

TEST(Sampling, log_probabilities_are_those_of_the_raw_logits) {
  SamplingParams params = greedy();
  params.logprobs = 3;
  params.repetition_penalty = 10.0f;
  const std::vector<int32_t> output = {1}, banned = {3};
  const SampledToken token = sample_one(kLogits, {params, {}, output, banned});
  const std::vector<double> p = softmax(kLogits, 1.0);
  EXPECT_EQ(token.id, 5);
  EXPECT_NEAR(token.logprob, std::log(p[5]), 1e-6);
  ASSERT_EQ(token.top.size(), 3u);
  const int expected[] = {1, 3, 5};
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(token.top[i].id, expected[i]);
    EXPECT_NEAR(token.top[i].logprob, std::log(p[expected[i]]), 1e-6);
  }
}

TEST(Sampling, log_probabilities_are_given_when_asked_for_only) {
  SamplingParams params = greedy();
  EXPECT_TRUE(sample_one(kLogits, {params, {}, {}, {}}).top.empty());
  params.logprobs = 0;
  const SampledToken token = sample_one(kLogits, {params, {}, {}, {}});
  EXPECT_TRUE(token.top.empty());
  EXPECT_NEAR(token.logprob, std::log(softmax(kLogits, 1.0)[1]), 1e-6);
  params.logprobs = 20;  // more than there are
  EXPECT_EQ(sample_one(kLogits, {params, {}, {}, {}}).top.size(), kLogits.size());
}

TEST(Sampling, log_probabilities_of_a_large_vocabulary_are_exact_to_a_millionth) {
  const Matrix random = Matrix::random(1, 128256, 5);
  std::vector<float> logits(128256);
  double sum = 0.0;
  for (size_t i = 0; i < logits.size(); ++i) {
    logits[i] = random.at(0, i) * 3.0f;
    sum += std::exp(static_cast<double>(logits[i]));
  }
  SamplingParams params = greedy();
  params.logprobs = 20;
  const SampledToken token = sample_one(logits, {params, {}, {}, {}});
  for (const TokenLogprob& top : token.top) {
    EXPECT_NEAR(top.logprob, logits[top.id] - std::log(sum), 2e-6);
  }
  EXPECT_TRUE(std::is_sorted(token.top.begin(), token.top.end(),
                             [](const auto& a, const auto& b) { return a.logprob > b.logprob; }));
}

TEST(Sampling, a_seed_gives_the_same_tokens_in_any_batch_and_on_any_number_of_threads) {
  constexpr int kRows = 40, kVocab = 6000;  // wide enough to be shared out
  const Matrix logits = Matrix::random(kRows, kVocab, 3);
  const std::vector<int32_t> outputs(kRows, -1);
  std::vector<SampleRow> rows(kRows);
  for (int i = 0; i < kRows; ++i) {
    rows[i].params.seed = 1000 + i % 7;
    rows[i].params.top_p = i % 2 == 0 ? 0.9f : 1.0f;
    rows[i].output_ids = {outputs.data(), static_cast<size_t>(i)};
  }
  std::vector<SampledToken> expected(kRows);
  CpuBackend one(1);
  for (int i = 0; i < kRows; ++i) {
    testing::sample(one, logits.tensor().slice_rows(i, 1), {&rows[i], 1}, {&expected[i], 1});
  }
  for (const int threads : {1, 2, 3}) {
    std::vector<SampledToken> tokens(kRows);
    CpuBackend many(threads);
    testing::sample(many, logits.tensor(), rows, tokens);
    for (int i = 0; i < kRows; ++i) EXPECT_EQ(tokens[i].id, expected[i].id);
  }
}

TEST(Sampling, other_seeds_and_other_indices_give_other_draws) {
  SamplingParams params;
  const std::vector<float> flat(1000, 0.0f);
  std::vector<int32_t> ids;
  const std::vector<int32_t> outputs(30, -1);
  for (uint64_t seed : {uint64_t{0}, uint64_t{1}, ~uint64_t{0}, uint64_t{1} << 32}) {
    params.seed = seed;
    for (size_t index = 0; index < 30; ++index) {
      ids.push_back(sample_one(flat, {params, {}, {outputs.data(), index}, {}}).id);
    }
  }
  std::sort(ids.begin(), ids.end());
  EXPECT_GT(std::unique(ids.begin(), ids.end()) - ids.begin(), 100);
}

TEST(Sampling, the_smallest_temperature_is_as_good_as_greedy) {
  SamplingParams params;
  for (const float temperature : {std::numeric_limits<float>::denorm_min(), 1e-38f, 1e-6f}) {
    params.temperature = temperature;
    for (const float top_p : {1.0f, 0.5f}) {
      params.top_p = top_p;
      const SampledToken token = sample_one(kLogits, {params, {}, {}, {}});
      EXPECT_TRUE(token.finite);
      EXPECT_EQ(token.id, 1);
    }
  }
}

TEST(Sampling, a_row_that_is_not_finite_has_no_token_and_harms_no_other) {
  const float nan = std::nanf("");
  for (const std::vector<float>& bad :
       {std::vector<float>(8, -kInfinity), std::vector<float>{0, 1, nan, 3, 4, 5, 6, 7},
        std::vector<float>{0, 1, 2, 3, 4, 5, 6, kInfinity}, std::vector<float>(8, nan)}) {
    Matrix logits(2, 8);
    std::copy(bad.begin(), bad.end(), logits.tensor().row<float>(0));
    std::copy(kLogits.begin(), kLogits.end(), logits.tensor().row<float>(1));
    const std::vector<SampleRow> rows(2);
    std::vector<SampledToken> tokens(2);
    CpuBackend backend(1);
    testing::sample(backend, logits.tensor(), rows, tokens);
    EXPECT_FALSE(tokens[0].finite);
    EXPECT_EQ(tokens[0].id, -1);
    EXPECT_TRUE(tokens[1].finite && tokens[1].id >= 0);
  }
}

TEST(Sampling, a_nan_is_found_wherever_it_stands) {
  std::vector<float> logits(130, 0.5f);
  for (size_t i = 0; i < logits.size(); ++i) {
    logits[i] = std::nanf("");
    EXPECT_FALSE(sample_one(logits, {greedy(), {}, {}, {}}).finite) << i;
    logits[i] = 0.5f;
  }
}

TEST(Sampling, minus_infinity_is_a_token_that_never_comes) {
  std::vector<float> logits = kLogits;
  logits[1] = -kInfinity;
  SamplingParams params;
  std::vector<double> expected = softmax(logits, 1.0);
  expect_distribution(histogram(logits, params, kDraws), expected);
}

TEST(Sampling, banning_every_token_is_reported_as_not_finite) {
  const std::vector<int32_t> banned = {0, 1};
  EXPECT_FALSE(sample_one({1.0f, 2.0f}, {SamplingParams{}, {}, {}, banned}).finite);
}

TEST(Draws, are_collected_in_the_order_in_which_they_were_started) {
  CpuBackend backend(1);
  Matrix first(2, 3), second(1, 3);
  for (int c = 0; c < 3; ++c) {
    first.at(0, c) = static_cast<float>(c == 1);
    first.at(1, c) = static_cast<float>(c == 2);
    second.at(0, c) = static_cast<float>(c == 0);
  }
  const std::vector<SampleRow> rows(2, {greedy(), {}, {}, {}});
  backend.start_sampling(first.tensor(), rows);
  backend.start_sampling(second.tensor(), {rows.data(), 1});
  EXPECT_THROW(backend.start_sampling(second.tensor(), {rows.data(), 1}), InvariantError);
  std::vector<SampledToken> tokens(2);
  backend.collect(tokens);
  EXPECT_EQ(tokens[0].id, 1);
  EXPECT_EQ(tokens[1].id, 2);
  backend.collect({tokens.data(), 1});
  EXPECT_EQ(tokens[0].id, 0);
  EXPECT_THROW(backend.collect(tokens), InvariantError);
}

TEST(Draws, of_the_newest_call_are_inputs_before_they_are_collected) {
  CpuBackend backend(1);
  Matrix logits(3, 4);
  const int ids[] = {2, 0, 3};
  for (int r = 0; r < 3; ++r) {
    for (int c = 0; c < 4; ++c) {
      logits.at(r, c) = r == 1 ? std::nanf("") : static_cast<float>(c == ids[r]);
    }
  }
  const std::vector<SampleRow> rows(3, {greedy(), {}, {}, {}});
  backend.start_sampling(logits.tensor(), rows);
  Matrix table(4, 1), y(4, 1);
  for (int r = 0; r < 4; ++r) table.at(r, 0) = static_cast<float>(10 + r);
  const std::vector<int32_t> inputs = {drawn_token(2), 1, drawn_token(0), drawn_token(1)};
  backend.embed(table.tensor(), inputs, y.tensor());
  EXPECT_EQ(y.at(0, 0), 13.0f);
  EXPECT_EQ(y.at(1, 0), 11.0f);
  EXPECT_EQ(y.at(2, 0), 12.0f);
  EXPECT_EQ(y.at(3, 0), Matrix::kGap) << "a row that was not finite has no token to look up";
  EXPECT_THROW(backend.embed(table.tensor(), std::vector<int32_t>(4, drawn_token(3)), y.tensor()),
               InvariantError);
}

TEST(Draws, count_outputs_whose_ids_are_not_known_unless_a_penalty_looks_at_them) {
  SamplingParams params;
  params.seed = 5;
  const std::vector<float> logits(50, 0.0f);
  const std::vector<int32_t> outputs(7, 1);
  for (size_t known = 0; known <= outputs.size(); ++known) {
    SampleRow row{params, {}, {outputs.data(), known}, {}};
    row.unknown_ids = static_cast<int>(outputs.size() - known);
    const SampleRow all{params, {}, outputs, {}};
    EXPECT_EQ(sample_one(logits, row).id, sample_one(logits, all).id);
  }
  SampleRow penalised{params, {}, outputs, {}};
  penalised.params.presence_penalty = 0.5f;
  penalised.unknown_ids = 1;
  EXPECT_THROW(sample_one(logits, penalised), InvariantError);
}

}  // namespace
}  // namespace cogserve
