// Whole passes of the decoder on the CUDA backend, recorded and repeated where they recur: bit for
// bit what the same operations compute one by one, from arrays that they bring themselves.
#include <gtest/gtest.h>

#include <cmath>

#include "engine/base/check.hpp"
#include "tests/engine/cuda_pass_tools.hpp"

namespace cogserve {
namespace {

using testing::PassModel;

class CudaPass : public testing::CudaPassTest {};
COGSERVE_CUDA_SUITE(CudaPass);

TEST_P(CudaPass, computes_what_its_operations_compute_one_by_one) {
  const std::vector<int> lengths = {30, 1, 17};
  for (size_t s = 0; s < lengths.size(); ++s) {
    const Batch prompt = PassModel::chunk(static_cast<int>(s), 0, lengths[s]);
    EXPECT_EQ(model().logits(prompt, 1), plain().logits(prompt, 1)) << "sequence " << s;
  }
  // Decode rows beside the rest of a prompt.
  Batch mixed = PassModel::decode(lengths, 3);
  const Batch more = PassModel::chunk(3, 0, 20);
  const auto tables = static_cast<int>(mixed.block_tables.size());
  mixed.runs.push_back({3, 20, 0, tables});
  mixed.block_tables.insert(mixed.block_tables.end(), more.block_tables.begin(),
                            more.block_tables.end());
  mixed.token_ids.insert(mixed.token_ids.end(), more.token_ids.begin(), more.token_ids.end());
  mixed.positions.insert(mixed.positions.end(), more.positions.begin(), more.positions.end());
  mixed.slots.insert(mixed.slots.end(), more.slots.begin(), more.slots.end());
  mixed.logit_rows = {22, 0, 2};
  EXPECT_EQ(model().logits(mixed, 3), plain().logits(mixed, 3));
}

// The lengths grow over the ends of blocks and of splits while the pass is repeated, and there come
// to be more splits than the recorded grid has blocks on the emulator.
TEST_P(CudaPass, that_is_repeated_reads_the_arrays_of_its_own_step) {
  std::vector<int> lengths = {125, 14, 126, 3, 125, 127};
  for (int step = 0; step < 5; ++step) {
    const Batch batch = PassModel::decode(lengths, 16);
    ASSERT_EQ(model().logits(batch, 6), plain().logits(batch, 6)) << "step " << step;
    for (int& length : lengths) ++length;
  }
  // Other sequences, fewer of them, and back at an earlier place.
  for (const std::vector<int>& others :
       {std::vector<int>{3, 20}, std::vector<int>{131, 1, 2, 0}, std::vector<int>{1}}) {
    const Batch batch = PassModel::decode(others, 16);
    const int rows = static_cast<int>(others.size());
    ASSERT_EQ(model().logits(batch, rows), plain().logits(batch, rows));
  }
}

// By the kernels for a few rows: all others here are of more rows, for the emulator's sake.
TEST_P(CudaPass, gives_a_row_the_same_bits_with_and_without_padding) {
  const std::vector<int> lengths = {30, 14, 3};
  const Batch exact = PassModel::decode(lengths, 3);
  const std::vector<float> expected = plain().logits(exact, 3);
  for (int time = 0; time < 3; ++time) {
    EXPECT_EQ(model().logits(PassModel::decode(lengths, 4), 3), expected);
  }
}

TEST_P(CudaPass, takes_drawn_tokens_without_the_host) {
  constexpr int kSteps = 4;
  const std::vector<int> begin = {9, 14, 3};
  SampleRow greedy;
  greedy.params.temperature = 0.0f;
  const std::vector<SampleRow> rows(3, greedy);
  std::vector<std::vector<SampledToken>> tokens(kSteps, std::vector<SampledToken>(3));
  std::vector<std::vector<float>> next;
  std::vector<int> lengths = begin;
  Batch drawn = PassModel::decode(lengths, 16);
  for (int step = 0; step < kSteps; ++step) {
    backend().start_sampling(model().forward(drawn).slice_rows(0, 3), rows);
    for (int& length : lengths) ++length;
    drawn = PassModel::decode(lengths, 16);
    for (int s = 0; s < 3; ++s) drawn.token_ids[s] = drawn_token(s);
    next.push_back(model().logits(drawn, 3));
    backend().collect(tokens[step]);
  }
  // The same with each token in the host's hands, when no draw of the other model is the newest.
  lengths = begin;
  Batch known = PassModel::decode(lengths, 16);
  for (int step = 0; step < kSteps; ++step) {
    SCOPED_TRACE(step);
    std::vector<SampledToken> expected(3);
    testing::sample(plain_backend(), plain().forward(known).slice_rows(0, 3), rows, expected);
    for (int& length : lengths) ++length;
    known = PassModel::decode(lengths, 16);
    for (int s = 0; s < 3; ++s) {
      EXPECT_EQ(tokens[step][s].id, expected[s].id);
      known.token_ids[s] = expected[s].id;
    }
    EXPECT_EQ(next[step], plain().logits(known, 3));
  }
}

TEST_P(CudaPass, refuses_wrong_arrays_as_its_operations_do_when_it_is_repeated) {
  const std::vector<int> lengths = {9, 14};
  const Batch good = PassModel::decode(lengths, 9);
  const std::vector<float> expected = plain().logits(good, 2);
  for (int time = 0; time < 4; ++time) {
    EXPECT_EQ(model().logits(good, 2), expected) << time;
    Batch bad = good;
    bad.token_ids[1] = model().config().vocab;
    EXPECT_THROW(model().forward(bad), InvariantError);
    bad = good;
    bad.token_ids[0] = drawn_token(7);
    EXPECT_THROW(model().forward(bad), InvariantError);
    bad = good;
    bad.positions[0] = model().config().max_positions;
    EXPECT_THROW(model().forward(bad), InvariantError);
    bad = good;
    bad.slots[1] = int64_t{PassModel::kSpareBlock + 1} * PassModel::kBlockSize;
    EXPECT_THROW(model().forward(bad), InvariantError);
    bad = good;
    bad.block_tables[0] = PassModel::kSpareBlock + 1;
    EXPECT_THROW(model().forward(bad), InvariantError);
  }
}

// Two models on one backend take turns: neither is given the other's recording.
TEST_P(CudaPass, of_one_model_is_never_taken_for_another_models) {
  PassModel other(backend());
  const std::vector<int> lengths = {9, 14};
  for (int time = 0; time < 3; ++time) {
    const Batch batch = PassModel::decode(lengths, 16);
    const std::vector<float> expected = plain().logits(batch, 2);
    EXPECT_EQ(model().logits(batch, 2), expected) << time;
  }
  // The other one's cache has its own tokens.
  other.forward(PassModel::chunk(0, 0, 9));
  plain().forward(PassModel::chunk(0, 0, 9));
  for (int time = 0; time < 3; ++time) {
    const Batch batch = PassModel::decode(lengths, 16);
    const std::vector<float> expected = plain().logits(batch, 2);
    EXPECT_EQ(other.logits(batch, 2), expected) << time;
    EXPECT_NE(model().logits(batch, 2), expected) << time;
  }
}

TEST_P(CudaPass, is_near_the_cpu_backends) {
  CpuBackend cpu(1);
  PassModel reference(cpu);
  const std::vector<int> lengths = {40, 14, 3};
  const Batch batch = PassModel::decode(lengths, 16);
  const std::vector<float> expected = reference.logits(batch, 3);
  double squares = 0.0;
  for (const float logit : expected) squares += double{logit} * logit;
  const double typical = std::sqrt(squares / static_cast<double>(expected.size()));
  for (int time = 0; time < 3; ++time) {
    const std::vector<float> logits = model().logits(batch, 3);
    for (size_t i = 0; i < logits.size(); ++i) {
      ASSERT_NEAR(logits[i], expected[i], 20 * unit() * typical) << "logit " << i;
    }
  }
}

}  // namespace
}  // namespace cogserve
