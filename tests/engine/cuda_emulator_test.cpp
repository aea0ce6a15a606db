// The emulator itself: that it computes what a GPU would, and that planted mistakes are found.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "engine/backend/cuda/launch.cuh"
#include "engine/backend/cuda/numeric.cuh"
#include "engine/backend/cuda/ptx.cuh"

namespace cogserve {
namespace {

using emulator::Order;

const Order kOrders[] = {Order::kAscending, Order::kDescending, Order::kShuffled};

// Runs one block of `threads` threads with `shared_bytes` of shared memory.
template <typename Body>
void run_block(unsigned threads, size_t shared_bytes, const Body& body) {
  emulator::run_grid({1, 1, 1}, {threads, 1, 1}, shared_bytes, body);
}

// What the emulator says about a kernel, "" if nothing.
template <typename Body>
std::string complaint(const Body& body) {
  try {
    run_block(64, 1024, body);
  } catch (const emulator::Error& error) {
    return error.what();
  }
  return "";
}

class EmulatorOrders : public ::testing::TestWithParam<Order> {
 protected:
  void SetUp() override { emulator::set_order(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(Orders, EmulatorOrders, ::testing::ValuesIn(kOrders));

TEST_P(EmulatorOrders, every_thread_of_every_block_runs_once) {
  std::vector<int> seen(2 * 3 * 64);
  emulator::run_grid({2, 3, 1}, {32, 2, 1}, 0, [&] {
    const unsigned block = blockIdx.y * gridDim.x + blockIdx.x;
    ++seen[block * 64 + threadIdx.y * blockDim.x + threadIdx.x];
  });
  for (int count : seen) EXPECT_EQ(count, 1);
}

TEST_P(EmulatorOrders, barriers_order_what_threads_write_and_read) {
  std::vector<int> read(128);
  run_block(128, 128 * sizeof(int), [&] {
    int* const shared = cuda::shared_memory<int>();
    for (int round = 0; round < 3; ++round) {
      shared[threadIdx.x] = static_cast<int>(threadIdx.x) + round;
      __syncthreads();
      read[threadIdx.x] = shared[127 - threadIdx.x];
      __syncthreads();
    }
  });
  for (int i = 0; i < 128; ++i) EXPECT_EQ(read[i], 127 - i + 2);
}

TEST_P(EmulatorOrders, shuffles_and_ballots_see_the_whole_warp) {
  std::vector<float> sums(64);
  std::vector<unsigned> ballots(64);
  run_block(64, 0, [&] {
    sums[threadIdx.x] = cuda::warp_sum(static_cast<float>(threadIdx.x));
    ballots[threadIdx.x] = __ballot_sync(cuda::kAllLanes, threadIdx.x % 3 == 0);
  });
  EXPECT_EQ(sums[5], 31.0f * 32.0f / 2);
  EXPECT_EQ(sums[40], 95.0f * 32.0f / 2);
  EXPECT_EQ(ballots[0], 0x49249249u);
}

TEST_P(EmulatorOrders, a_matrix_product_by_loads_from_shared_memory_is_one) {
  // C [16, 8] = A [16, 16] B [16, 8], B once by its columns and once, transposed, by its rows.
  const auto a_at = [](int r, int k) { return static_cast<float>((r * 3 + k) % 7 - 3); };
  const auto b_at = [](int k, int c) { return static_cast<float>((k * 5 + c) % 9 - 4); };
  for (const bool transposed : {false, true}) {
    std::vector<float> product(16 * 8);
    run_block(32, 2048, [&] {
      __half* const a = cuda::shared_memory<__half>();  // [16, 16]
      __half* const b = a + 256;  // 16 columns of 16, of which 8 are used, or 16 rows of 16
      for (int i = threadIdx.x; i < 256; i += 32) {
        const int row = i / 16, col = i % 16;
        a[i] = __float2half_rn(a_at(row, col));
        b[i] = __float2half_rn(transposed ? b_at(row, col) : b_at(col, row));
      }
      __syncthreads();
      const int lane = threadIdx.x;
      uint32_t fragment_a[4], fragment_b[4];
      cuda::ptx::ldmatrix_x4(fragment_a, a + (lane % 16) * 16 + lane / 16 * 8);
      if (transposed) {
        cuda::ptx::ldmatrix_x4_transposed(fragment_b, b + (lane % 16) * 16 + lane / 16 * 8);
      } else {
        cuda::ptx::ldmatrix_x4(fragment_b, b + (lane % 8) * 16 + lane / 8 % 2 * 8);
      }
      const uint32_t first[2] = {fragment_b[0], fragment_b[1]};
      float c[4] = {};
      cuda::ptx::mma_m16n8k16<__half>(c, fragment_a, first);
      for (int i = 0; i < 4; ++i) {
        product[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = c[i];
      }
    });
    for (int r = 0; r < 16; ++r) {
      for (int c = 0; c < 8; ++c) {
        float expected = 0.0f;
        for (int k = 0; k < 16; ++k) expected += a_at(r, k) * b_at(k, c);
        ASSERT_EQ(product[r * 8 + c], expected) << r << ", " << c << ", " << transposed;
      }
    }
  }
}

TEST_P(EmulatorOrders, a_barrier_that_some_threads_miss_is_found) {
  EXPECT_NE(complaint([] {
              if (threadIdx.x < 40) __syncthreads();
            }),
            "");
  const auto two_places = [] {  // a macro's argument would be one line
    if (threadIdx.x % 2 == 0) {
      __syncthreads();
    } else {
      __syncthreads();
    }
  };
  EXPECT_NE(complaint(two_places).find("while others wait"), std::string::npos);
}

TEST_P(EmulatorOrders, a_shuffle_that_some_lanes_miss_is_found) {
  EXPECT_NE(complaint([] {
              if (threadIdx.x != 7) cuda::warp_sum(1.0f);
            }),
            "");
  EXPECT_NE(complaint([] {
              if (threadIdx.x % 2 == 0) {
                __syncwarp();
              } else {
                __ballot_sync(cuda::kAllLanes, true);
              }
            }).find("while other lanes"),
            std::string::npos);
}

TEST_P(EmulatorOrders, shared_memory_that_was_never_written_is_not_a_number) {
  float value = 0.0f;
  run_block(32, 128, [&] { value = cuda::shared_memory<float>()[threadIdx.x]; });
  EXPECT_TRUE(std::isnan(value));
}

TEST_P(EmulatorOrders, a_copy_that_nobody_waits_for_is_not_there) {
  alignas(16) float source[4] = {1.0f, 2.0f, 3.0f, 4.0f};
  float before = 0.0f, after = 0.0f, zero = 1.0f;
  run_block(32, 32, [&] {
    float* const shared = cuda::shared_memory<float>();
    if (threadIdx.x == 0) {
      cuda::ptx::copy_async_16(shared, source, true);
      cuda::ptx::commit_copies();
      cuda::ptx::copy_async_16(shared + 4, source, false);
      cuda::ptx::commit_copies();
      before = shared[1];
      cuda::ptx::wait_copies<1>();
      after = shared[1];
      cuda::ptx::wait_copies<0>();
      zero = shared[5];
    }
  });
  EXPECT_TRUE(std::isnan(before));
  EXPECT_EQ(after, 2.0f);
  EXPECT_EQ(zero, 0.0f);
}

TEST_P(EmulatorOrders, addresses_that_matrix_loads_cannot_take_are_found) {
  EXPECT_NE(complaint([] {
              uint32_t r[4];
              cuda::ptx::ldmatrix_x4(r, cuda::shared_memory<char>() + 8);
            }).find("misaligned"),
            std::string::npos);
  EXPECT_NE(complaint([] {
              uint32_t r[4];
              cuda::ptx::ldmatrix_x4(r, cuda::shared_memory<char>() + 1024);
            }).find("outside"),
            std::string::npos);
}

TEST(Emulator, a_missing_barrier_shows_when_threads_are_taken_in_another_order) {
  std::vector<int> results;
  for (const Order order : kOrders) {
    emulator::set_order(order);
    int read = 0;
    run_block(64, 256, [&] {
      int* const shared = cuda::shared_memory<int>();
      shared[threadIdx.x] = 5;
      if (threadIdx.x == 40) read = shared[30];  // no barrier before it
    });
    results.push_back(read);
  }
  EXPECT_EQ(results[0], 5);
  EXPECT_EQ(results[1], -1);
}

__global__ void write_number(int* to, int number) {
  cuda::ptx::begin_kernel();
  if (threadIdx.x == 0) *to = number;
}

class EmulatedStreams : public ::testing::Test {
 protected:
  EmulatedStreams() { cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking); }
  ~EmulatedStreams() override { cudaStreamDestroy(stream_); }

  void write(int* to, int number) {
    cuda::launch("write", {dim3(1), dim3(32)}, stream_, write_number, to, number);
  }

  cudaStream_t stream_ = nullptr;
};

TEST_F(EmulatedStreams, work_is_done_when_somebody_waits_and_not_before) {
  int device = 0, host = 7;
  cudaEvent_t event = nullptr;
  cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
  write(&device, 1);
  cudaEventRecord(event, stream_);
  cudaMemcpyAsync(&device, &host, sizeof(int), cudaMemcpyHostToDevice, stream_);
  EXPECT_EQ(device, 0);
  cudaEventSynchronize(event);
  EXPECT_EQ(device, 1) << "what comes after the event does not run";
  host = 8;  // too early
  cudaStreamSynchronize(stream_);
  EXPECT_EQ(device, 8) << "the transfer reads what is there when it runs";
  cudaEventDestroy(event);
}

TEST_F(EmulatedStreams, a_graph_keeps_the_arguments_that_it_was_captured_with) {
  int device = 0, other = 0, number = 3;
  cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal);
  write(&device, number);
  cudaMemcpyAsync(&other, &device, sizeof(int), cudaMemcpyDeviceToDevice, stream_);
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(cudaStreamEndCapture(stream_, &graph), cudaSuccess);
  cudaStreamSynchronize(stream_);
  EXPECT_EQ(device, 0) << "what is captured does not run";
  cudaGraphExec_t exec = nullptr;
  cudaGraphInstantiate(&exec, graph, 0);
  cudaGraphDestroy(graph);
  for (int time = 0; time < 3; ++time) {
    number = 100;  // not the graph's any more
    device = other = 0;
    cudaGraphLaunch(exec, stream_);
    cudaStreamSynchronize(stream_);
    EXPECT_EQ(device, 3);
    EXPECT_EQ(other, 3) << "memory is read at each launch";
  }
  cudaGraphExecDestroy(exec);
}

TEST_F(EmulatedStreams, what_waits_or_allocates_breaks_a_capture) {
  cudaGraph_t graph = nullptr;
  void* memory = nullptr;
  cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal);
  EXPECT_NE(cudaMalloc(&memory, 8), cudaSuccess);
  EXPECT_NE(cudaStreamEndCapture(stream_, &graph), cudaSuccess);
  cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal);
  EXPECT_NE(cudaStreamSynchronize(stream_), cudaSuccess);
  EXPECT_NE(cudaStreamEndCapture(stream_, &graph), cudaSuccess);
  EXPECT_EQ(cudaMalloc(&memory, 8), cudaSuccess);
  cudaFree(memory);
}

TEST(EmulatedHalf, holds_every_pattern_and_rounds_to_nearest_even) {
  for (int bits = 0; bits < 0x10000; ++bits) {
    const float value = __half2float(__half{static_cast<uint16_t>(bits)});
    if (std::isnan(value)) continue;
    ASSERT_EQ(__float2half_rn(value).bits, bits);
  }
  EXPECT_EQ(__float2half_rn(1.0f + 0x1p-11f).bits, 0x3c00);             // a tie, to even
  EXPECT_EQ(__float2half_rn(1.0f + 3 * 0x1p-11f).bits, 0x3c02);         // a tie, to even
  EXPECT_EQ(__float2half_rn(1.0f + 0x1p-11f + 0x1p-20f).bits, 0x3c01);  // beyond the tie
  EXPECT_EQ(__float2half_rn(65519.0f).bits, 0x7bff);
  EXPECT_EQ(__float2half_rn(65520.0f).bits, 0x7c00);
  EXPECT_EQ(__float2half_rn(0x1p-25f).bits, 0);
  EXPECT_EQ(__float2half_rn(0x1.8p-25f).bits, 1);
}

}  // namespace
}  // namespace cogserve
