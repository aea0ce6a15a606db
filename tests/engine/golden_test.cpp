// The engine's numbers against the reference's: every case of every golden set, on the CPU or on
// the device that --device names.

#include <gtest/gtest.h>

#include <cctype>
#include <cstdio>
#include <random>

#include "tests/engine/device_presence.hpp"
#include "tests/engine/golden_set.hpp"
#include "tests/engine/rounding.hpp"
#include "tests/engine/test_backend.hpp"

namespace cogserve {
namespace {

using Rows = std::vector<std::vector<float>>;

// Of the largest logit before the next.
double lead(std::span<const float> logits) {
  const int best = argmax(logits);
  double second = -INFINITY;
  for (int i = 0; i < static_cast<int>(logits.size()); ++i) {
    if (i != best) second = std::max<double>(second, logits[i]);
  }
  return logits[best] - second;
}

class Golden : public testing::TestWithParam<GoldenSet> {
 protected:
  void SetUp() override {
    const auto backend = make_test_backend(test_options().device, 1);
    auto& presence = device_presence();
    if (!backend.ok()) return presence.missing(test_options().device, backend.status());
    presence.found();
    const int longest = test_options().longest;
    for (const GoldenCase& golden : GetParam().cases) {
      if (longest == 0 || static_cast<int>(golden.ids.size()) <= longest) cases_.push_back(golden);
    }
    const size_t left_out = GetParam().cases.size() - cases_.size();
    if (left_out > 0) {
      std::printf("%s: %zu of %zu cases have more than %d tokens and are left out\n",
                  GetParam().name.c_str(), left_out, GetParam().cases.size(), longest);
    }
    ASSERT_FALSE(cases_.empty());
  }

  const std::vector<GoldenCase>& cases() const { return cases_; }

  // One model for each RoPE table, made when first asked for: on the device under test, and on the
  // CPU, which says what the reference's files do not.
  GoldenModel& model(RopeDtype rope) { return made(&models_, rope, test_options().device); }
  GoldenModel& reference(RopeDtype rope) { return made(&references_, rope, "cpu"); }

  static Rounding rounding(GoldenModel& model) {
    const DType stored = model.stored_dtype();
    const bool bf16_products =
        test_options().device == kBF16ProductsDevice && stored == DType::kBF16;
    return {model.config(), bf16_products ? DType::kBF16 : model.backend().activation_dtype(),
            stored};
  }

  // Whether a row has the same bits in every company: the CPU's do, with products of either kind.
  static bool keeps_bits(GoldenModel& model) {
    return model.backend().activation_dtype() == DType::kF32;
  }

  // Of one row of the case's logits.
  static double logits_limit(GoldenModel& model, const GoldenCase& golden,
                             std::span<const float> expected) {
    return rounding(model).logits_limit(rms(expected), !golden.pixels.empty());
  }

  // The same bits from a backend that keeps them; else each row within its limit.
  static void expect_alike(GoldenModel& model, const GoldenCase& golden, const Rows& got,
                           const Rows& expected, const std::string& what) {
    if (keeps_bits(model)) {
      EXPECT_EQ(got, expected) << what;
      return;
    }
    ASSERT_EQ(got.size(), expected.size()) << what;
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_LE(max_error(got[i], expected[i]), logits_limit(model, golden, expected[i]))
          << what << ", row " << i;
    }
  }

  // Prefill by `chunk` tokens, then the reference's greedy tokens one by one; the logits before
  // each of them from number `kept` on. Tokens before that belong to the prefill.
  static Rows decode(GoldenModel& model, const GoldenCase& golden, GoldenSequence sequence,
                     size_t kept, int chunk) {
    for (size_t i = 0; i < kept; ++i) sequence.append(golden.greedy[i]);
    Rows rows = {model.run(sequence, chunk).back()};
    for (size_t i = kept; i + 1 < golden.greedy.size(); ++i) {
      sequence.append(golden.greedy[i]);
      const GoldenChunk last{&sequence, static_cast<int>(sequence.ids.size()) - 1, 1};
      rows.push_back(model.step({&last, 1}).front());
    }
    return rows;
  }

 private:
  using Models = std::unique_ptr<GoldenModel>[2];

  GoldenModel& made(Models* models, RopeDtype rope, const std::string& device) {
    auto& made = (*models)[rope == RopeDtype::kBF16];
    if (!made) made = std::make_unique<GoldenModel>(GetParam().directory, rope, device);
    return *made;
  }

  std::vector<GoldenCase> cases_;
  Models models_;
  Models references_;
};

// What was found, beside what may be.
class Errors {
 public:
  void add(std::span<const float> got, std::span<const float> expected, double limit) {
    const double error = max_error(got, expected);
    EXPECT_LE(error, limit);
    worst_ = std::max(worst_, error);
    of_limit_ = std::max(of_limit_, error / limit);
    for (size_t i = 0; i < std::min(got.size(), expected.size()); ++i) {
      differences_.push_back(got[i] - expected[i]);
    }
    expected_.insert(expected_.end(), expected.begin(), expected.end());
  }

  double rms_expected() const { return rms(expected_); }
  double rms_error() const { return rms(differences_); }

  void print(const std::string& name, const char* what) const {
    std::printf("%s: %s within %.1e, %.0f%% of the limit; root mean square %.1e\n", name.c_str(),
                what, worst_, 100 * of_limit_, rms_error());
  }

 private:
  double worst_ = 0;
  double of_limit_ = 0;
  std::vector<float> differences_;
  std::vector<float> expected_;
};

TEST_P(Golden, vision_features_are_those_of_the_reference) {
  int pictures = 0;
  for (const GoldenCase& golden : cases()) {
    if (golden.pixels.empty()) continue;
    ++pictures;
    SCOPED_TRACE(golden.name);
    GoldenModel& m = model(golden.rope);
    Errors errors;
    errors.add(m.encode(golden.pixels, m.config().vision.layers), golden.features,
               rounding(m).features_limit(rms(golden.features)));
    EXPECT_LE(errors.rms_error(), rounding(m).typical_features_limit(errors.rms_expected()));
    errors.print(GetParam().name + " " + golden.name, "features");
  }
  EXPECT_GT(pictures, 0);
}

TEST_P(Golden, logits_are_those_of_the_reference) {
  for (const GoldenCase& golden : cases()) {
    SCOPED_TRACE(golden.name);
    GoldenModel& m = model(golden.rope);
    const Rows all = m.run(m.make_sequence(golden, 3, 5, 0), GoldenModel::kMaxRows);
    const auto vocab = static_cast<size_t>(m.config().vocab);
    ASSERT_EQ(golden.logits.size(), golden.logit_rows.size() * vocab);
    Errors errors;
    for (size_t i = 0; i < golden.logit_rows.size(); ++i) {
      SCOPED_TRACE(golden.logit_rows[i]);
      const std::span<const float> expected(golden.logits.data() + i * vocab, vocab);
      errors.add(all[golden.logit_rows[i]], expected, logits_limit(m, golden, expected));
    }
    EXPECT_LE(errors.rms_error(),
              rounding(m).typical_logits_limit(errors.rms_expected(), !golden.pixels.empty()));
    errors.print(GetParam().name + " " + golden.name, "logits");
  }
}

// Wherever the lead of the reference's token is beyond what rounding could turn round: on an exact
// backend everywhere.
TEST_P(Golden, greedy_tokens_are_those_of_the_reference) {
  size_t compared = 0;
  size_t all = 0;
  for (const GoldenCase& golden : cases()) {
    GoldenModel& m = model(golden.rope);
    GoldenModel& cpu = reference(golden.rope);
    const int count = static_cast<int>(golden.greedy.size());
    const Rows expected = decode(cpu, golden, cpu.make_sequence(golden, 0, 1, count), 0, 64);
    const Rows rows = decode(m, golden, m.make_sequence(golden, 7, 11, count), 0, 64);
    for (int i = 0; i < count; ++i) {
      const double limit = logits_limit(m, golden, expected[i]);
      EXPECT_LE(max_error(rows[i], expected[i]), limit) << golden.name << " token " << i;
      ++all;
      if (lead(expected[i]) <= 2 * limit) continue;
      EXPECT_EQ(argmax(rows[i]), golden.greedy[i]) << golden.name << " token " << i;
      ++compared;
    }
  }
  std::printf("%s: %zu of %zu greedy tokens lead by more than rounding can turn round\n",
              GetParam().name.c_str(), compared, all);
  EXPECT_GE(compared, rounding(model(cases().front().rope)).exact() ? all : 1);
}

TEST_P(Golden, chunk_size_changes_nothing) {
  for (const GoldenCase& golden : cases()) {
    GoldenModel& m = model(golden.rope);
    const Rows whole = m.run(m.make_sequence(golden, 3, 5, 0), GoldenModel::kMaxRows);
    for (const int chunk : {1, 7, 16, 64}) {
      if (chunk >= static_cast<int>(golden.ids.size())) continue;  // that is the whole again
      expect_alike(m, golden, m.run(m.make_sequence(golden, 100, 7, 0), chunk), whole,
                   golden.name + " by " + std::to_string(chunk));
    }
  }
}

TEST_P(Golden, other_blocks_change_no_bit) {
  for (const GoldenCase& golden : cases()) {
    GoldenModel& m = model(golden.rope);
    for (const int chunk : {7, GoldenModel::kMaxRows}) {
      EXPECT_EQ(m.run(m.make_sequence(golden, 100, 7, 0), chunk),
                m.run(m.make_sequence(golden, 3, 5, 0), chunk))
          << golden.name << " by " << chunk;
    }
  }
}

TEST_P(Golden, what_lies_in_the_cache_beyond_a_sequence_changes_no_bit) {
  for (const GoldenCase& golden : cases()) {
    GoldenModel& m = model(golden.rope);
    const int count = static_cast<int>(golden.greedy.size());
    const Rows clean = decode(m, golden, m.make_sequence(golden, 3, 5, count), 0, 16);
    m.poison_cache();
    EXPECT_EQ(decode(m, golden, m.make_sequence(golden, 3, 5, count), 0, 16), clean) << golden.name;
  }
}

// Sequences that go forward together, each at its own pace.
class Company {
 public:
  Company(GoldenModel* model, GoldenSequence under_test)
      : model_(*model),
        next_block_(static_cast<int>(under_test.block_table.size())),
        sequences_{std::move(under_test)} {}

  void add(const GoldenCase& golden) {
    sequences_.push_back(model_.make_sequence(golden, next_block_, 1, 0));
    next_block_ += static_cast<int>(sequences_.back().block_table.size());
    ASSERT_LE(next_block_, GoldenModel::kNumBlocks);
  }

  // The logits of the sequence under test, fed as many tokens a step as `pace(0)` says, the others
  // as `pace(number)`; with or without those others.
  template <typename Pace>
  Rows run(bool together, const Pace& pace) {
    std::vector<int> done(sequences_.size(), 0);
    Rows rows;
    while (done[0] < static_cast<int>(sequences_[0].ids.size())) {
      std::vector<GoldenChunk> chunks;
      for (size_t s = sequences_.size(); s-- > 0;) {  // the sequence under test comes last
        const int left = static_cast<int>(sequences_[s].ids.size()) - done[s];
        const int count = std::min<int>(left, pace(s));
        if (count == 0 || (s > 0 && !together)) continue;
        chunks.push_back({&sequences_[s], done[s], count});
        done[s] += count;
      }
      const Rows all = model_.step(chunks);
      rows.insert(rows.end(), all.end() - chunks.back().count, all.end());
    }
    return rows;
  }

  size_t size() const { return sequences_.size(); }

 private:
  GoldenModel& model_;
  int next_block_;
  std::vector<GoldenSequence> sequences_;
};

TEST_P(Golden, neighbours_in_the_batch_change_nothing) {
  for (const GoldenCase& golden : cases()) {
    GoldenModel& m = model(golden.rope);
    // Every case of the same table at once, its own twin too, in blocks of their own.
    Company company(&m, m.make_sequence(golden, 0, 1, 0));
    for (const GoldenCase& other : cases()) {
      if (other.rope == golden.rope) company.add(other);
    }
    const Rows alone = company.run(false, [](size_t) { return GoldenModel::kMaxRows; });
    std::mt19937 random(1);
    const Rows batched = company.run(true, [&](size_t s) { return 1 + random() % (s ? 40 : 9); });
    expect_alike(m, golden, batched, alone, golden.name);
    // Where all rows of a step go through one kernel, its promise is kept: no bit changes.
    const auto slow = [](size_t s) { return s == 0 ? 3 : 1; };
    EXPECT_EQ(company.run(true, slow), company.run(false, slow))
        << golden.name << " among " << company.size();
  }
}

TEST_P(Golden, recomputing_from_any_token_changes_nothing) {
  for (const GoldenCase& golden : cases()) {
    GoldenModel& m = model(golden.rope);
    const int count = static_cast<int>(golden.greedy.size());
    const Rows expected = decode(m, golden, m.make_sequence(golden, 0, 1, count), 0, 16);
    for (int kept = 1; kept < count; kept += keeps_bits(m) ? 1 : 5) {
      // Preempted with `kept` tokens out: other blocks, everything computed again, then on.
      const GoldenSequence again = m.make_sequence(golden, 64 + kept, 3, count);
      expect_alike(m, golden, decode(m, golden, again, kept, 64),
                   Rows(expected.begin() + kept, expected.end()),
                   golden.name + " after " + std::to_string(kept));
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
