// The CUDA backend's arithmetic on the host: the ring of pinned memory, the memory of weights, the
// plan of attention, the classes of matrix products, errors.
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "engine/backend/cuda/attention_plan.hpp"
#include "engine/backend/cuda/cuda_backend.hpp"
#include "engine/backend/cuda/device_code.hpp"
#include "engine/backend/cuda/error.hpp"
#include "engine/backend/cuda/matmul_key.hpp"
#include "engine/backend/cuda/pass_graphs.hpp"
#include "engine/backend/cuda/ring.hpp"
#include "engine/backend/cuda/weight_memory.hpp"
#include "engine/base/check.hpp"
#include "engine/base/error.hpp"
#include "tests/engine/cuda_emulator/streams.hpp"

namespace cogserve::cuda {
namespace {

TEST(Ring, places_do_not_overlap_and_are_aligned) {
  Ring ring(1024, 3);
  std::set<size_t> begins;
  for (int i = 0; i < 4 * 3; ++i) {
    const Ring::Place place = ring.take(200);
    EXPECT_EQ(place.offset % Ring::kAlignment, 0u);
    EXPECT_EQ(place.offset / 1024, static_cast<size_t>(place.segment));
    EXPECT_TRUE(begins.insert(place.offset).second);
  }
  EXPECT_EQ(begins.size(), 12u);
}

TEST(Ring, marks_a_segment_when_it_is_left_and_waits_for_it_when_it_comes_round) {
  Ring ring(1024, 3);
  EXPECT_EQ(ring.take(1000).left, -1);
  for (int lap = 0; lap < 3; ++lap) {
    for (int segment = 1; segment <= 3; ++segment) {
      const Ring::Place place = ring.take(1000);
      EXPECT_EQ(place.left, segment - 1);
      EXPECT_EQ(place.segment, segment % 3);
      // The first time round nothing was there before.
      EXPECT_EQ(place.must_wait, lap > 0 || segment == 3);
    }
  }
}

TEST(Ring, takes_up_to_a_whole_segment_and_no_more) {
  Ring ring(1024, 2);
  EXPECT_EQ(ring.take(1024).left, -1);
  EXPECT_EQ(ring.take(0).left, -1);
  EXPECT_EQ(ring.take(1).left, 0);
  EXPECT_THROW(ring.take(1025), InvariantError);
  EXPECT_THROW(Ring(1000, 2), InvariantError);
}

TEST(WeightArena, gives_out_aligned_places_until_there_is_too_little_left) {
  WeightArena arena;
  EXPECT_EQ(arena.take(1), nullptr);
  std::vector<std::byte> memory(1024);
  arena.open(Buffer(memory.data(), memory.size(), [](void*) {}));
  EXPECT_EQ(arena.take(100), memory.data());
  EXPECT_EQ(arena.take(769), nullptr);
  EXPECT_EQ(arena.take(257), memory.data() + 256);
  EXPECT_EQ(arena.take(256), memory.data() + 768);
  EXPECT_EQ(arena.take(1), nullptr);
  EXPECT_THROW(arena.open(Buffer(memory.data(), memory.size(), [](void*) {})), InvariantError);
}

TEST(AttentionPlan, single_rows_are_split_by_keys_and_longer_runs_tiled_by_rows) {
  const PlannedRun runs[] = {{0, 40, 100, 0}, {40, 1, 300, 12}, {41, 1, 0, 40}};
  AttentionPlan plan;
  plan_attention(runs, 16, 1000, &plan);
  // The tile with the most keys comes first.
  ASSERT_EQ(plan.tiles.size(), 3u);
  EXPECT_EQ(plan.tiles[0].row, 32);
  EXPECT_EQ(plan.tiles[0].tokens, 8);
  EXPECT_EQ(plan.tiles[0].first_index, 132);
  EXPECT_EQ(plan.tiles[2].row, 0);
  EXPECT_EQ(plan.tiles[2].tokens, 16);
  ASSERT_EQ(plan.splits.size(), 4u);  // 301 keys are 3 splits of 128, and 1 key is one
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(plan.splits[i].row, 40);
    EXPECT_EQ(plan.splits[i].first_key, i * kSplitKeys);
    EXPECT_EQ(plan.splits[i].keys, 301);
    EXPECT_EQ(plan.splits[i].table_begin, 12);
  }
  ASSERT_EQ(plan.waves.size(), 1u);
  EXPECT_EQ(plan.waves[0].splits, 4);
  EXPECT_EQ(plan.waves[0].merges, 2);
  ASSERT_EQ(plan.merges.size(), 2u);
  EXPECT_EQ(plan.merges[1].row, 41);
  EXPECT_EQ(plan.merges[1].split_begin, 3);
  EXPECT_EQ(plan.merges[1].splits, 1);
}

TEST(AttentionPlan, waves_hold_what_the_scratch_memory_does) {
  std::vector<PlannedRun> runs;
  for (int i = 0; i < 7; ++i) runs.push_back({i, 1, 3 * kSplitKeys - 1, i});
  AttentionPlan plan;
  plan_attention(runs, 16, 8, &plan);  // two rows of three splits at a time
  ASSERT_EQ(plan.waves.size(), 4u);
  int split = 0, merge = 0;
  for (const DecodeWave& wave : plan.waves) {
    EXPECT_EQ(wave.split_begin, split);
    EXPECT_EQ(wave.merge_begin, merge);
    EXPECT_LE(wave.splits, 8);
    int within = 0;
    for (int i = merge; i < merge + wave.merges; ++i) {
      EXPECT_EQ(plan.merges[i].split_begin, within);
      within += plan.merges[i].splits;
    }
    EXPECT_EQ(within, wave.splits);
    split += wave.splits;
    merge += wave.merges;
  }
  EXPECT_EQ(split, 21);
  EXPECT_EQ(merge, 7);
  EXPECT_THROW(plan_attention(runs, 16, 2, &plan), InvariantError);
}

TEST(AttentionPlan, a_row_is_split_alike_in_any_company) {
  const PlannedRun row{5, 1, 400, 9};
  AttentionPlan alone, together;
  plan_attention({&row, 1}, 16, 100, &alone);
  const PlannedRun runs[] = {{0, 5, 3, 0}, row, {6, 1, 77, 2}};
  plan_attention(runs, 16, 100, &together);
  for (size_t i = 0; i < alone.splits.size(); ++i) {
    EXPECT_EQ(together.splits[i].first_key, alone.splits[i].first_key);
    EXPECT_EQ(together.splits[i].keys, alone.splits[i].keys);
  }
}

TEST(AttentionPlan, single_rows_attend_up_to_themselves) {
  const PlannedRun runs[] = {{0, 3, 7, 2}, {3, 1, 0, 5}};
  std::vector<SingleRow> rows;
  plan_single_rows(runs, &rows);
  ASSERT_EQ(rows.size(), 4u);
  EXPECT_EQ(rows[2].row, 2);
  EXPECT_EQ(rows[2].keys, 10);
  EXPECT_EQ(rows[2].table_begin, 2);
  EXPECT_EQ(rows[3].keys, 1);
}

TEST(PaddedRows, are_the_next_bucket) {
  const int buckets[] = {1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256};
  int rows = 1;
  for (const int bucket : buckets) {
    for (; rows <= bucket; ++rows) ASSERT_EQ(padded_rows(rows), bucket) << rows;
  }
}

TEST(MatmulKey, rows_of_a_class_share_a_choice) {
  EXPECT_EQ(row_class(1), 1);
  EXPECT_EQ(row_class(9), 16);
  EXPECT_EQ(row_class(16), 16);
  EXPECT_EQ(row_class(1000), 1024);
  EXPECT_EQ(row_class(1025), 2048);
  EXPECT_EQ(row_class(2305), 3072);
  EXPECT_EQ(row_class(9217), 10240);
  MatmulShape shape{.rows = 600, .in = 4096, .out = 6144, .x_stride = 4096, .y_stride = 6144};
  const MatmulKey key = matmul_key(shape);
  shape.rows = 1000;
  EXPECT_EQ(matmul_key(shape), key);
  shape.rows = 500;
  EXPECT_NE(matmul_key(shape), key);
  shape.rows = 600;
  shape.bias = true;
  EXPECT_NE(matmul_key(shape), key);
}

TEST(MatmulKey, alignment_is_what_all_addresses_and_distances_share) {
  EXPECT_EQ(common_alignment({256, 512, 1024, 0}, {8192, 8192, 12288}), 16);
  EXPECT_EQ(common_alignment({256, 512, 1024, 0}, {588 * 2, 588 * 2, 1792 * 2}), 8);
  EXPECT_EQ(common_alignment({256, 512, 1024 + 4, 0}, {8192, 8192, 12288}), 4);
  EXPECT_EQ(common_alignment({256, 512, 1024, 0}, {10, 8192, 12288}), 2);
}

TEST(CudaBackend, is_not_made_for_a_device_that_the_build_has_no_code_for) {
  emulator::has_code() = false;
  const absl::Status status = CudaBackend::create("cuda:0").status();
  emulator::has_code() = true;
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(error_reason(status), "DEVICE");
  EXPECT_NE(status.message().find("this build has no code"), std::string::npos) << status;
  EXPECT_TRUE(CudaBackend::create("cuda:0").ok());
}

TEST(DeviceCode, begins_early_where_the_device_can_and_the_code_waits) {
  EXPECT_FALSE(can_begin_early(80, 80));
  EXPECT_FALSE(can_begin_early(89, 89));
  EXPECT_FALSE(can_begin_early(80, 90)) << "compiled by the driver from what does not wait";
  EXPECT_FALSE(can_begin_early(89, 120));
  EXPECT_TRUE(can_begin_early(90, 90));
  EXPECT_TRUE(can_begin_early(90, 103));
  EXPECT_TRUE(can_begin_early(120, 120));
}

TEST(CudaError, names_the_call_and_the_error) {
  EXPECT_NO_THROW(check_cuda(cudaSuccess, "cudaMalloc"));
  try {
    check_cuda(cudaErrorMemoryAllocation, "cudaMalloc");
    FAIL() << "no exception";
  } catch (const CudaError& error) {
    const std::string expected = std::string("cudaMalloc: ") +
                                 cudaGetErrorName(cudaErrorMemoryAllocation) + " (" +
                                 cudaGetErrorString(cudaErrorMemoryAllocation) + ")";
    EXPECT_EQ(error.what(), expected);
  }
}

}  // namespace
}  // namespace cogserve::cuda
