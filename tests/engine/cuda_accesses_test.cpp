// That the emulator finds planted faults of memory, whatever the order in which threads are taken,
// and none where there are none.
#include <cuda_runtime.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "engine/backend/cuda/launch.cuh"
#include "tests/engine/cuda_emulator/access_pattern.hpp"
#include "tests/engine/cuda_emulator/cublaslt_product.hpp"
#include "tests/engine/cuda_emulator/planted_accesses.hpp"

namespace cogserve {
namespace {

namespace planted = emulator::planted;
using emulator::Order;
using ::testing::HasSubstr;

constexpr size_t kNumbers = 4 * planted::kThreads;  // more than any of the kernels uses

class EmulatedAccesses : public ::testing::TestWithParam<Order> {
 protected:
  EmulatedAccesses() {
    emulator::set_order(GetParam());
    cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking);
    memory_ = allocate(kNumbers);
  }
  ~EmulatedAccesses() override {
    cudaFree(memory_);
    cudaStreamDestroy(stream_);
  }

  static int* allocate(size_t numbers) {
    void* memory = nullptr;
    EXPECT_EQ(cudaMalloc(&memory, numbers * sizeof(int)), cudaSuccess);
    return static_cast<int*>(memory);
  }

  void zero(size_t numbers) { cudaMemsetAsync(memory_, 0, numbers * sizeof(int), stream_); }

  static cuda::LaunchShape shape(unsigned blocks) {
    constexpr size_t kSharedBytes = 1024;
    return {dim3(blocks), dim3(planted::kThreads), kSharedBytes};
  }
  void start(const char* name, void (*kernel)(int*), int* memory, unsigned blocks = 1) {
    cuda::launch(name, shape(blocks), stream_, planted::after_earlier_kernels, kernel, memory);
  }

  // The column of `memory_` times its first element, by the library.
  void give_product() {
    emulator::LibraryProduct product;
    product.m = planted::kThreads;
    product.n = product.k = 1;
    product.a = product.c = product.d = {memory_, CUDA_R_32F, product.m, 1, product.m};
    product.b = {memory_, CUDA_R_32F, 1, 1, 1};
    stream_->give([product] { emulator::multiply(product); });
  }

  // What the emulator says about `kernel`, "" if nothing.
  std::string complaint(void (*kernel)(int*), int* memory, unsigned blocks = 1) {
    start("planted", kernel, memory, blocks);
    return complaint();
  }
  std::string complaint(void (*kernel)(int*), unsigned blocks = 1) {
    return complaint(kernel, memory_, blocks);
  }
  // About one that has to wait for earlier kernels itself.
  std::string complaint_of_early(void (*kernel)(int*)) {
    cuda::launch("early", shape(1), stream_, kernel, memory_);
    return complaint();
  }
  // About all that was started.
  std::string complaint() {
    try {
      cudaStreamSynchronize(stream_);
    } catch (const emulator::Error& error) {
      return error.what();
    }
    return "";
  }

  cudaStream_t stream_ = nullptr;
  int* memory_ = nullptr;
};

std::string name_of(const ::testing::TestParamInfo<Order>& order) {
  constexpr const char* kNames[] = {"ascending", "descending", "shuffled"};
  return kNames[static_cast<int>(order.param)];
}
INSTANTIATE_TEST_SUITE_P(Orders, EmulatedAccesses,
                         ::testing::Values(Order::kAscending, Order::kDescending, Order::kShuffled),
                         name_of);

TEST_P(EmulatedAccesses, that_barriers_order_are_no_race) {
  EXPECT_EQ(complaint(planted::exchange_by_barriers), "");
  zero(kNumbers);
  EXPECT_EQ(complaint(planted::copy_by_barriers), "");
}

TEST_P(EmulatedAccesses, of_two_warps_race_without_a_barrier) {
  // Or, by the order, what is read is not there yet.
  EXPECT_THAT(complaint(planted::read_before_a_barrier), HasSubstr("shared memory"));
  EXPECT_THAT(complaint(planted::overwrite_before_a_barrier),
              HasSubstr("race with another warp's"));
  EXPECT_THAT(complaint(planted::write_one_word_from_two_warps),
              HasSubstr("race with another warp's write"));
}

TEST_P(EmulatedAccesses, of_two_lanes_race_without_a_barrier_and_a_shuffle_is_none) {
  EXPECT_THAT(complaint(planted::overwrite_after_a_shuffle), HasSubstr("of the same warp"));
  EXPECT_THAT(complaint(planted::write_one_word_from_two_lanes),
              HasSubstr("race with a write of the same warp"));
}

TEST_P(EmulatedAccesses, of_one_of_many_readers_race_too) {
  EXPECT_THAT(complaint(planted::overwrite_what_all_read),
              HasSubstr("race with another warp's access"));
  EXPECT_THAT(complaint(planted::overwrite_what_the_warp_reads), HasSubstr("of the same warp"));
}

TEST_P(EmulatedAccesses, of_two_blocks_race_within_a_launch_and_not_between_launches) {
  EXPECT_THAT(complaint(planted::write_memory, 2), HasSubstr("race with another block's write"));
  EXPECT_EQ(complaint(planted::write_memory), "");
  EXPECT_EQ(complaint(planted::read_memory, 2), "");
  EXPECT_EQ(complaint(planted::write_memory), "");
  for (const auto kernel : {planted::read_in_one_block_what_another_writes,
                            planted::read_in_all_blocks_what_the_last_writes}) {
    EXPECT_THAT(complaint(kernel, 2), HasSubstr("race with another block's access"));
  }
}

TEST_P(EmulatedAccesses, that_are_atomic_race_with_those_that_are_not) {
  zero(1);
  EXPECT_EQ(complaint(planted::add_atomically, 3), "");
  EXPECT_EQ(complaint(planted::add_atomically_and_read_after_a_barrier), "");
  EXPECT_EQ(complaint(planted::add_atomically_and_read_in_the_last_block), "");
  EXPECT_THAT(complaint(planted::add_atomically_and_read_in_the_last_block, 2),
              HasSubstr("race with another block's access"));
  EXPECT_THAT(complaint(planted::add_atomically_and_read), HasSubstr("race with"));
  EXPECT_THAT(complaint(planted::set_and_add_atomically), HasSubstr("race with another warp's"));
  EXPECT_THAT(complaint(planted::add_atomically_and_read_after_a_warps_barrier),
              HasSubstr("race with another warp's access"));
}

TEST_P(EmulatedAccesses, of_single_bytes_are_told_apart) {
  EXPECT_EQ(complaint(planted::write_bytes), "");
  EXPECT_THAT(complaint(planted::write_a_word_and_a_byte_of_it),
              HasSubstr("race with another warp's write"));
}

TEST_P(EmulatedAccesses, beyond_what_was_allocated_are_found) {
  int* const small = allocate(planted::kThreads - 1);
  EXPECT_THAT(complaint(planted::write_memory, small), HasSubstr("beyond what was allocated"));
  cudaFree(small);
  int* const freed = allocate(planted::kThreads);
  cudaFree(freed);
  EXPECT_THAT(complaint(planted::write_memory, freed), HasSubstr("beyond what was allocated"));
  std::vector<int> host(planted::kThreads);
  EXPECT_THAT(complaint(planted::write_memory, host.data()), HasSubstr("not the device's"));
  EXPECT_THAT(complaint(planted::write_beyond_shared_memory), HasSubstr("not the device's"));
  EXPECT_THAT(complaint(planted::read_a_global_of_the_host), HasSubstr("not the device's"));
}

TEST_P(EmulatedAccesses, that_are_not_aligned_to_their_size_are_found) {
  EXPECT_THAT(complaint(planted::write_between_words), HasSubstr("misaligned"));
}

TEST_P(EmulatedAccesses, of_what_nobody_has_written_are_found) {
  EXPECT_THAT(complaint(planted::read_memory), HasSubstr("device memory that nobody has"));
  zero(planted::kThreads - 1);
  EXPECT_THAT(complaint(planted::read_memory), HasSubstr("device memory that nobody has"));
  zero(planted::kThreads);
  EXPECT_EQ(complaint(planted::read_memory), "") << "and fills shared memory";
  EXPECT_THAT(complaint(planted::read_shared_memory), HasSubstr("shared memory that the block"))
      << "of another block";
}

TEST_P(EmulatedAccesses, of_asynchronous_copies_are_made_by_the_threads_that_start_them) {
  zero(kNumbers);
  EXPECT_NE(complaint(planted::copy_and_wait_without_a_barrier), "");
  EXPECT_THAT(complaint(planted::copy_over_what_is_read), HasSubstr("race with"));
  EXPECT_THAT(complaint(planted::copy_what_changes), HasSubstr("race with"));
  EXPECT_THAT(complaint(planted::copy_and_read_without_a_wait), HasSubstr("still to write"));
}

TEST_P(EmulatedAccesses, by_transfers_are_of_memory_that_is_there_and_bring_along_what_is_not) {
  int* const other = allocate(planted::kThreads);
  const auto copy = [&](int* to, const int* from, size_t numbers) -> std::string {
    cudaMemcpyAsync(to, from, numbers * sizeof(int), cudaMemcpyDeviceToDevice, stream_);
    try {
      cudaStreamSynchronize(stream_);
    } catch (const emulator::Error& error) {
      return error.what();
    }
    return "";
  };
  zero(planted::kThreads);
  EXPECT_EQ(copy(other, memory_, planted::kThreads - 1), "");
  EXPECT_EQ(copy(other + planted::kThreads - 1, memory_ + planted::kThreads, 1), "");
  EXPECT_THAT(complaint(planted::read_memory, other), HasSubstr("device memory that nobody has"));
  EXPECT_EQ(copy(other, memory_, planted::kThreads), "");
  EXPECT_EQ(complaint(planted::read_memory, other), "");
  EXPECT_THAT(copy(memory_, other, planted::kThreads + 1), HasSubstr("not allocated"));
  cudaFree(other);
  EXPECT_THAT(copy(memory_, other, 1), HasSubstr("not allocated"));
}

TEST_P(EmulatedAccesses, that_fail_leave_no_later_work_behind) {
  zero(kNumbers);
  start("bad", planted::write_memory, memory_, 2);
  const std::string what = complaint(planted::write_memory);
  EXPECT_THAT(what, HasSubstr("bad: thread"));
  EXPECT_EQ(complaint(planted::write_memory), "");
}

TEST_P(EmulatedAccesses, before_earlier_kernels_are_done_are_of_what_they_do_not_write) {
  zero(kNumbers);
  EXPECT_EQ(complaint(planted::write_memory), "");
  EXPECT_EQ(complaint_of_early(planted::read_and_wait), "") << "the host has waited for all";
  start("earlier", planted::write_memory, memory_);
  EXPECT_THAT(complaint_of_early(planted::read_and_wait), HasSubstr("earlier kernels may still"));
  give_product();
  EXPECT_THAT(complaint_of_early(planted::read_and_wait), HasSubstr("earlier kernels may still"));
  EXPECT_THAT(complaint_of_early(planted::write_memory), HasSubstr("a write while earlier"));
  EXPECT_THAT(complaint_of_early(planted::add_atomically), HasSubstr("a write while earlier"));
  EXPECT_THAT(complaint_of_early(planted::do_nothing), HasSubstr("without a wait"));
}

TEST_P(EmulatedAccesses, of_the_host_to_device_memory_end_it) {
  zero(1);
  cudaStreamSynchronize(stream_);
  EXPECT_EXIT(*memory_ = 1, ::testing::KilledBySignal(SIGSEGV), "");
  EXPECT_EXIT(std::exit(*memory_), ::testing::KilledBySignal(SIGSEGV), "");
}

TEST_P(EmulatedAccesses, are_counted_in_sectors_and_wavefronts) {
  using emulator::AccessCount;
  zero(kNumbers);
  cudaStreamSynchronize(stream_);
  const auto pattern_of = [&](void (*kernel)(int*)) {
    emulator::start_patterns();
    EXPECT_EQ(complaint(kernel), "");
    return emulator::take_patterns()["planted"];
  };
  const auto count = [](const AccessCount& of) { return std::pair(of.needed, of.taken); };
  EXPECT_EQ(count(pattern_of(planted::load_side_by_side).loads), std::pair(8ul, 8ul));
  EXPECT_EQ(count(pattern_of(planted::load_every_other).loads), std::pair(8ul, 16ul));
  EXPECT_EQ(count(pattern_of(planted::load_one_for_all).loads), std::pair(2ul, 2ul));
  EXPECT_EQ(count(pattern_of(planted::store_every_eighth).stores), std::pair(4ul, 32ul));
  EXPECT_EQ(count(pattern_of(planted::use_one_bank).shared), std::pair(1ul, 8ul));
  const emulator::AccessPattern copies = pattern_of(planted::copy_sixteen_bytes_each);
  EXPECT_EQ(count(copies.loads), std::pair(32ul, 32ul));
  EXPECT_EQ(count(copies.shared), std::pair(8ul, 8ul));
  EXPECT_EQ(count(copies.stores), std::pair(0ul, 0ul));
}

}  // namespace
}  // namespace cogserve
