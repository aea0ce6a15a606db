// The engine's numbers against the reference's: every case of every golden set.

#include <gtest/gtest.h>

#include <cctype>
#include <cstdio>
#include <random>

#include "tests/engine/golden_set.hpp"

namespace cogserve {
namespace {

constexpr double kFeaturesLimit = 1e-4;
constexpr double kLogitsLimit = 1e-3;

using Rows = std::vector<std::vector<float>>;

class Golden : public testing::TestWithParam<GoldenSet> {
 protected:
  // One model for each RoPE table, made when first asked for.
  GoldenModel& model(RopeDtype rope) {
    auto& model = models_[rope == RopeDtype::kBF16];
    if (!model) model = std::make_unique<GoldenModel>(GetParam().directory, rope);
    return *model;
  }

  // Prefill by `chunk` tokens, then greedy decoding; the logits that chose each token.
  Rows decode(GoldenModel& model, GoldenSequence& sequence, size_t count, int chunk) {
    Rows chosen = {model.run(sequence, chunk).back()};
    while (true) {
      sequence.append(argmax(chosen.back()));
      if (chosen.size() == count) return chosen;
      const GoldenChunk last{&sequence, static_cast<int>(sequence.ids.size()) - 1, 1};
      chosen.push_back(model.step({&last, 1}).front());
    }
  }

  std::unique_ptr<GoldenModel> models_[2];
};

TEST_P(Golden, vision_features_are_those_of_the_reference) {
  double worst = 0;
  int pictures = 0;
  for (const GoldenCase& golden : GetParam().cases) {
    if (golden.pixels.empty()) continue;
    ++pictures;
    GoldenModel& m = model(golden.rope);
    const double error =
        max_error(m.encode(golden.pixels, m.config().vision.layers), golden.features);
    EXPECT_LE(error, kFeaturesLimit) << golden.name;
    worst = std::max(worst, error);
  }
  EXPECT_GT(pictures, 0);
  std::printf("%s: features within %.1e\n", GetParam().name.c_str(), worst);
}

TEST_P(Golden, logits_are_those_of_the_reference) {
  double worst = 0;
  for (const GoldenCase& golden : GetParam().cases) {
    GoldenModel& m = model(golden.rope);
    const Rows all = m.run(m.make_sequence(golden, 3, 5, 0), GoldenModel::kMaxRows);
    const auto vocab = static_cast<size_t>(m.config().vocab);
    ASSERT_EQ(golden.logits.size(), golden.logit_rows.size() * vocab) << golden.name;
    for (size_t i = 0; i < golden.logit_rows.size(); ++i) {
      const std::span<const float> expected(golden.logits.data() + i * vocab, vocab);
      const double error = max_error(all[golden.logit_rows[i]], expected);
      EXPECT_LE(error, kLogitsLimit) << golden.name << " token " << golden.logit_rows[i];
      worst = std::max(worst, error);
    }
  }
  std::printf("%s: logits within %.1e\n", GetParam().name.c_str(), worst);
}

TEST_P(Golden, greedy_tokens_are_those_of_the_reference) {
  for (const GoldenCase& golden : GetParam().cases) {
    GoldenModel& m = model(golden.rope);
    const size_t count = golden.greedy.size();
    GoldenSequence sequence = m.make_sequence(golden, 7, 11, static_cast<int>(count));
    decode(m, sequence, count, 64);
    const std::vector<int32_t> generated(sequence.ids.end() - count, sequence.ids.end());
    EXPECT_EQ(generated, golden.greedy) << golden.name;
  }
}

TEST_P(Golden, chunk_size_changes_no_bit) {
  for (const GoldenCase& golden : GetParam().cases) {
    GoldenModel& m = model(golden.rope);
    const Rows whole = m.run(m.make_sequence(golden, 3, 5, 0), GoldenModel::kMaxRows);
    for (const int chunk : {1, 7, 16, 64}) {
      EXPECT_EQ(m.run(m.make_sequence(golden, 100, 7, 0), chunk), whole)
          << golden.name << " by " << chunk;
    }
  }
}

TEST_P(Golden, neighbours_in_the_batch_change_no_bit) {
  for (const GoldenCase& golden : GetParam().cases) {
    GoldenModel& m = model(golden.rope);
    const GoldenSequence alone = m.make_sequence(golden, 0, 1, 0);
    const Rows expected = m.run(alone, GoldenModel::kMaxRows);

    // Every case of the same table at once, in blocks of its own, each at its own pace.
    std::vector<GoldenSequence> sequences = {alone};
    int next_block = static_cast<int>(alone.block_table.size());
    for (const GoldenCase& other : GetParam().cases) {
      if (other.rope != golden.rope || other.name == golden.name) continue;
      sequences.push_back(m.make_sequence(other, next_block, 1, 0));
      next_block += static_cast<int>(sequences.back().block_table.size());
    }
    ASSERT_GT(sequences.size(), 1u);
    ASSERT_LE(next_block, GoldenModel::kNumBlocks);

    std::mt19937 random(1);
    std::vector<int> done(sequences.size(), 0);
    Rows batched;
    while (done[0] < static_cast<int>(alone.ids.size())) {
      std::vector<GoldenChunk> chunks;
      for (size_t s = sequences.size(); s-- > 0;) {  // the sequence under test comes last
        const int left = static_cast<int>(sequences[s].ids.size()) - done[s];
        const int count = std::min<int>(left, 1 + random() % (s == 0 ? 9 : 40));
        if (count == 0) continue;
        chunks.push_back({&sequences[s], done[s], count});
        done[s] += count;
      }
      const Rows rows = m.step(chunks);
      batched.insert(batched.end(), rows.end() - chunks.back().count, rows.end());
    }
    EXPECT_EQ(batched, expected) << golden.name;
  }
}

TEST_P(Golden, recomputing_from_any_token_changes_no_bit) {
  for (const GoldenCase& golden : GetParam().cases) {
    GoldenModel& m = model(golden.rope);
    const int count = static_cast<int>(golden.greedy.size());
    GoldenSequence sequence = m.make_sequence(golden, 0, 1, count);
    const Rows expected = decode(m, sequence, count, 16);

    const size_t prompt = golden.ids.size();
    for (int kept = 1; kept < count; ++kept) {
      // Preempted with `kept` tokens out: other blocks, everything computed again, then on.
      GoldenSequence again = m.make_sequence(golden, 64 + kept, 3, count);
      for (int i = 0; i < kept; ++i) again.append(sequence.ids[prompt + i]);
      const Rows rest = decode(m, again, count - kept, 64);
      EXPECT_EQ(rest, Rows(expected.begin() + kept, expected.end()))
          << golden.name << " after " << kept;
      EXPECT_EQ(again.ids, sequence.ids) << golden.name << " after " << kept;
    }
  }
}

std::string test_name(const testing::TestParamInfo<GoldenSet>& info) {
  std::string name = info.param.name + "_" + std::to_string(info.index);
  for (char& c : name) c = std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
  return name;
}

INSTANTIATE_TEST_SUITE_P(Sets, Golden, testing::ValuesIn(read_golden_sets()), test_name);

}  // namespace
}  // namespace cogserve
