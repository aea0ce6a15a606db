// What a pass and its draw cost the host, what becomes of a pass that cannot be recorded, and how
// weights are loaded: the emulator counts transfers, launches, graphs and allocations, and breaks
// captures.
#include <gtest/gtest.h>

#include <string>

#include "engine/backend/cuda/weight_memory.hpp"
#include "engine/backend/device_traits.hpp"
#include "tests/engine/cuda_emulator/cublaslt.hpp"
#include "tests/engine/cuda_emulator/streams.hpp"
#include "tests/engine/cuda_pass_tools.hpp"

namespace cogserve {
namespace {

using emulator::Counts;
using testing::PassModel;

class CudaPassCosts : public testing::CudaPassTest {
 protected:
  // What is counted while `work` runs.
  template <typename Work>
  static Counts cost_of(const Work& work) {
    const Counts before = emulator::counts();
    work();
    const Counts after = emulator::counts();
    return {after.uploads - before.uploads, after.launches - before.launches,
            after.graphs - before.graphs, after.allocations - before.allocations,
            after.waits - before.waits};
  }

  // Something has been arranged to go wrong with the first recording.
  void expect_steps_without_graphs() {
    std::vector<std::string> notices;
    backend().set_notice_log([&](std::string_view what) { notices.emplace_back(what); });
    std::vector<int> lengths = {20, 5, 9};
    for (int step = 0; step < 4; ++step) {
      const Batch batch = PassModel::decode(lengths, 16);
      std::vector<float> logits;
      const Counts cost = cost_of([&] { logits = model().logits(batch, 3); });
      EXPECT_EQ(cost.graphs, 0) << step;
      EXPECT_EQ(logits, plain().logits(batch, 3)) << step;
      for (int& length : lengths) ++length;
    }
    ASSERT_EQ(notices.size(), 1u);
    EXPECT_NE(notices[0].find("kernel by kernel"), std::string::npos) << notices[0];
  }
};
COGSERVE_CUDA_SUITE(CudaPassCosts);

TEST_P(CudaPassCosts, are_one_transfer_whatever_its_layers_and_rows) {
  EXPECT_EQ(cost_of([&] { model().forward(PassModel::chunk(0, 0, 20)); }).uploads, 1);
  EXPECT_GT(cost_of([&] { plain().forward(PassModel::chunk(0, 0, 20)); }).uploads, 4);
  const std::vector<int> lengths = {130, 0};
  for (int time = 0; time < 4; ++time) {
    const Counts cost = cost_of([&] { model().forward(PassModel::decode(lengths, 16)); });
    EXPECT_EQ(cost.uploads, 1);
  }
}

TEST_P(CudaPassCosts, are_one_launch_once_it_was_recorded) {
  std::vector<int> lengths = {20, 5, 9};
  for (int step = 0; step < 4; ++step) {
    const Counts cost = cost_of([&] { model().forward(PassModel::decode(lengths, 16)); });
    EXPECT_EQ(cost.graphs, step == 0 ? 0 : 1) << step;
    if (step > 1) {
      EXPECT_EQ(cost.launches, 0) << step;
    } else {
      EXPECT_GT(cost.launches, 10) << step;
    }
    for (int& length : lengths) ++length;
  }
}

// What is timed would break the recording.
TEST_P(CudaPassCosts, of_choosing_algorithms_are_the_first_pass_alone) {
  const std::vector<int> lengths = {20, 5, 9};
  const int captured = emulator::library_counts().captured;
  for (int step = 0; step < 3; ++step) {
    const int heuristics = emulator::library_counts().heuristics;
    model().forward(PassModel::decode(lengths, 16));
    EXPECT_EQ(emulator::library_counts().heuristics > heuristics, step == 0) << step;
    EXPECT_EQ(emulator::library_counts().captured > captured, step > 0) << step;
  }
}

TEST_P(CudaPassCosts, of_prompts_are_never_a_graphs) {
  for (int time = 0; time < 3; ++time) {
    EXPECT_EQ(cost_of([&] { model().forward(PassModel::chunk(0, 0, 20)); }).graphs, 0);
  }
}

TEST_P(CudaPassCosts, of_a_capture_that_fails_are_one_notice_and_no_wrong_answer) {
  emulator::break_next_capture();
  expect_steps_without_graphs();
}

TEST_P(CudaPassCosts, of_a_graph_that_finds_no_memory_are_one_notice_and_no_wrong_answer) {
  emulator::refuse_next_upload();
  expect_steps_without_graphs();
}

// A recording would go on reading what was sent when it was made.
TEST_P(CudaPassCosts, of_arrays_that_were_not_announced_are_transfers_and_no_graph) {
  int notices = 0;
  backend().set_notice_log([&](std::string_view) { ++notices; });
  const testing::DeviceMatrix table = put(testing::Matrix::random(9, 8, 1));
  const testing::Matrix rows = table.read();
  const testing::DeviceMatrix y = put(testing::Matrix(2, 8));
  const uint64_t recurring = backend().new_pass();
  for (int32_t time = 0; time < 5; ++time) {
    const std::vector<int32_t> announced = {0, 0};
    const std::vector<int32_t> ids = {time, time + 4};
    const PassInput input{.token_ids = announced,
                          .positions = {},
                          .slots = {},
                          .logit_rows = {},
                          .runs = {},
                          .block_tables = {},
                          .heads = 4,
                          .kv_heads = 2,
                          .head_dim = 32,
                          .recurring = recurring};
    backend().run_pass(input, [&] { backend().embed(table.tensor(), ids, y.tensor()); });
    const testing::Matrix out = y.read();
    for (int r = 0; r < 2; ++r) {
      for (int c = 0; c < 8; ++c) EXPECT_EQ(out.at(r, c), rows.at(ids[r], c)) << time;
    }
  }
  EXPECT_EQ(notices, 1);
}

// One transfer for the pass and one for the draw; nothing is allocated and nothing waited for until
// tokens are collected.
TEST_P(CudaPassCosts, of_steady_decoding_are_two_transfers_a_graph_and_a_draw) {
  std::vector<int> lengths = {20, 5, 9};
  SampleRow greedy;
  greedy.params.temperature = 0.0f;
  const std::vector<SampleRow> rows(3, greedy);
  std::vector<SampledToken> tokens(3);
  for (int step = 0; step < 5; ++step) {
    Batch batch = PassModel::decode(lengths, 16);
    if (step > 0) {
      for (int s = 0; s < 3; ++s) batch.token_ids[s] = drawn_token(s);
    }
    const Counts cost =
        cost_of([&] { backend().start_sampling(model().forward(batch).slice_rows(0, 3), rows); });
    if (step > 1) {
      EXPECT_EQ(cost.uploads, 2) << step;
      EXPECT_EQ(cost.graphs, 1) << step;
      EXPECT_EQ(cost.launches, 1) << step;
      EXPECT_EQ(cost.allocations, 0) << step;
      EXPECT_EQ(cost.waits, 0) << step;
    }
    if (step > 0) backend().collect(tokens);
    for (int& length : lengths) ++length;
  }
  backend().collect(tokens);
}

// What penalties need is there after the first draw, which has none.
TEST_P(CudaPassCosts, of_penalties_are_no_memory_once_tokens_were_drawn) {
  const std::vector<int> lengths = {20, 5, 9};
  const Tensor logits = model().forward(PassModel::decode(lengths, 3));
  std::vector<SampleRow> rows(3);
  std::vector<SampledToken> tokens(3);
  testing::sample(backend(), logits, rows, tokens);
  const std::vector<int32_t> prompt = {1, 2, 3};
  for (SampleRow& row : rows) {
    row.params.repetition_penalty = 1.5f;
    row.prompt_ids = prompt;
    row.banned_ids = prompt;
  }
  const Counts cost = cost_of([&] { testing::sample(backend(), logits, rows, tokens); });
  EXPECT_EQ(cost.allocations, 0);
}

class CudaWeights : public CudaPassCosts {};
COGSERVE_CUDA_SUITE(CudaWeights);

TEST_P(CudaWeights, that_were_reserved_are_one_allocation) {
  const ModelConfig config = testing::pass_config();
  const DeviceTraits traits{.weight_bytes = cuda::weight_bytes, .vector_bytes = cuda::vector_bytes};
  for (const DType stored : {DType::kF32, DType::kBF16, DType::kF16}) {
    DummyWeights source(1, stored);
    const WeightBytes bytes = measure_weights(traits, config, {}, &source).value();
    const auto backend = CudaBackend::create("cuda:0", dtype()).value();
    const Counts cost = cost_of([&] {
      const absl::Status status =
          backend->reserve_weights(static_cast<size_t>(bytes.decoder + bytes.vision));
      EXPECT_TRUE(status.ok()) << status;
      EXPECT_TRUE(load_weights(backend.get(), config, &source, nullptr).ok());
    });
    EXPECT_EQ(cost.allocations, 1) << dtype_name(stored);
  }
}

TEST_P(CudaWeights, compute_the_same_when_they_were_reserved) {
  const std::vector<int> lengths = {20, 5, 9};
  const Batch batch = PassModel::decode(lengths, 3);
  const std::vector<float> expected = model().logits(batch, 3);
  const auto reserved = CudaBackend::create("cuda:0", dtype()).value();
  ASSERT_TRUE(reserved->reserve_weights(20'000).ok());  // for a part of them
  EXPECT_EQ(PassModel(*reserved).logits(batch, 3), expected);
}

}  // namespace
}  // namespace cogserve
