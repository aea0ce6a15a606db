// Which algorithms of cuBLASLt the CUDA backend takes, and when, by what the emulator's library
// counts; and that library itself.
#include <cublasLt.h>
#include <gtest/gtest.h>

#include <vector>

#include "engine/backend/cuda/device_memory.hpp"
#include "engine/backend/cuda/error.hpp"
#include "engine/backend/cuda/matmul.hpp"
#include "tests/engine/cuda_emulator/cublaslt.hpp"
#include "tests/engine/cuda_emulator/cublaslt_objects.hpp"

namespace cogserve::cuda {
namespace {

using emulator::library_behaviour;
using emulator::library_counts;
using emulator::LibraryCounts;
using emulator::LibraryKernel;

class CublasLtTest : public ::testing::Test {
 protected:
  CublasLtTest() { library_behaviour() = {}; }
  ~CublasLtTest() override { library_behaviour() = {}; }

  // A vector on the device.
  template <typename T>
  DeviceMemory put(const std::vector<T>& values) {
    DeviceMemory memory = allocate_device(values.size() * sizeof(T));
    cudaMemcpyAsync(memory.get(), values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice,
                    stream_.get());
    stream_.synchronize();
    return memory;
  }

  template <typename T>
  std::vector<T> get(const DeviceMemory& memory, size_t count) {
    std::vector<T> values(count);
    cudaMemcpyAsync(values.data(), memory.get(), count * sizeof(T), cudaMemcpyDeviceToHost,
                    stream_.get());
    stream_.synchronize();
    return values;
  }

  Stream stream_;
};

// --- the backend's choices -----------------------------------------------------------------------

class MatmulChoice : public CublasLtTest {
 protected:
  static constexpr int64_t kOut = 24;
  static constexpr int64_t kIn = 64;
  static constexpr int64_t kMostRows = 64;

  Tensor x(int64_t rows) const { return Tensor::matrix(x_.get(), DType::kBF16, rows, kIn); }
  Tensor y(int64_t rows) const { return Tensor::matrix(y_.get(), DType::kBF16, rows, kOut); }
  Tensor w() const { return Tensor::matrix(w_.get(), DType::kBF16, kOut, kIn); }

  // What was asked of the library by a product of so many rows.
  LibraryCounts run(int64_t rows, int64_t bias_at = -1) {
    const LibraryCounts before = library_counts();
    const void* bias = bias_at < 0 ? nullptr : static_cast<const uint16_t*>(w_.get()) + bias_at;
    EXPECT_TRUE(matmul_.run(x(rows), w(), bias, y(rows), stream_));
    stream_.synchronize();
    return library_counts().since(before);
  }

  // Of products that are not timed any more.
  void expect_kernel(LibraryKernel kernel, int64_t rows, int64_t bias_at = -1) {
    EXPECT_EQ(run(rows, bias_at).by(kernel), 1) << rows << " rows";
  }

  Matmul matmul_{DType::kBF16};

 private:
  static std::vector<uint16_t> ones(int64_t count) { return std::vector<uint16_t>(count, 0x3f80); }

  DeviceMemory x_ = put(ones(kMostRows * kIn));
  DeviceMemory w_ = put(ones(kOut * kIn));
  DeviceMemory y_ = put(ones(kMostRows * kOut));
};

TEST_F(MatmulChoice, is_made_once_for_a_class_of_rows) {
  const LibraryCounts first = run(16);
  EXPECT_EQ(first.heuristics, 1);
  EXPECT_EQ(first.products, 4 * (1 + 3) + 1);
  for (const int64_t rows : {16, 9, 13}) {
    library_behaviour().set_ms(LibraryKernel::kInOrder, 0.001f);  // too late
    EXPECT_EQ(run(rows).products, 1) << rows;
  }
  EXPECT_EQ(run(17).heuristics, 1) << "another class";
}

TEST_F(MatmulChoice, is_the_fastest_candidate) {
  int64_t rows = 8;
  for (const auto kernel : {LibraryKernel::kTiles, LibraryKernel::kSplit, LibraryKernel::kPairs,
                            LibraryKernel::kInOrder}) {
    library_behaviour() = {};
    library_behaviour().set_ms(kernel, 0.5f);
    EXPECT_EQ(run(rows).by(kernel), 1 + 3 + 1);
    expect_kernel(kernel, rows);
    rows *= 2;
  }
}

TEST_F(MatmulChoice, is_none_that_the_library_refuses) {
  library_behaviour().set_ms(LibraryKernel::kSplit, 0.5f);
  library_behaviour().set_ms(LibraryKernel::kPairs, 0.75f);
  library_behaviour().refuse(LibraryKernel::kSplit);
  EXPECT_EQ(run(16).by(LibraryKernel::kSplit), 0);
  expect_kernel(LibraryKernel::kPairs, 16);
}

TEST_F(MatmulChoice, is_nothing_where_the_library_refuses_all_that_it_offers) {
  for (const auto kernel : {LibraryKernel::kTiles, LibraryKernel::kSplit, LibraryKernel::kPairs,
                            LibraryKernel::kInOrder}) {
    library_behaviour().refuse(kernel);
  }
  EXPECT_FALSE(matmul_.run(x(16), w(), nullptr, y(16), stream_));
  const LibraryCounts before = library_counts();
  EXPECT_FALSE(matmul_.run(x(16), w(), nullptr, y(16), stream_));
  EXPECT_EQ(library_counts().refused, before.refused) << "it is not tried again";
}

TEST_F(MatmulChoice, is_another_once_the_library_refuses_it) {
  library_behaviour().set_ms(LibraryKernel::kSplit, 0.5f);
  library_behaviour().set_ms(LibraryKernel::kPairs, 0.75f);
  run(16);
  expect_kernel(LibraryKernel::kSplit, 16);
  library_behaviour().refuse(LibraryKernel::kSplit);
  EXPECT_GT(run(16).by(LibraryKernel::kPairs), 1) << "chosen by running it";
  expect_kernel(LibraryKernel::kPairs, 16);
  expect_kernel(LibraryKernel::kPairs, 12);
}

TEST_F(MatmulChoice, that_fails_otherwise_is_an_error) {
  const Tensor nowhere = Tensor::matrix(nullptr, DType::kBF16, 16, kIn);
  EXPECT_THROW(matmul_.run(nowhere, w(), nullptr, y(16), stream_), CudaError);
}

TEST_F(MatmulChoice, is_left_for_rows_that_it_does_not_take) {
  library_behaviour().set_ms(LibraryKernel::kTiles, 0.5f);
  run(16);
  expect_kernel(LibraryKernel::kTiles, 16);
  const LibraryCounts cost = run(13);  // not whole tiles
  EXPECT_EQ(cost.by(LibraryKernel::kSplit), 1) << "the heuristic's best";
  EXPECT_EQ(cost.products, 1);
  expect_kernel(LibraryKernel::kTiles, 16);
}

TEST_F(MatmulChoice, is_made_among_what_takes_the_rows_at_hand) {
  library_behaviour().set_ms(LibraryKernel::kTiles, 0.5f);
  library_behaviour().set_ms(LibraryKernel::kPairs, 0.75f);
  EXPECT_EQ(run(13).refused, 0);
  expect_kernel(LibraryKernel::kPairs, 13);
  expect_kernel(LibraryKernel::kPairs, 16);
}

TEST_F(MatmulChoice, is_another_for_a_bias_that_is_aligned_otherwise) {
  library_behaviour().set_ms(LibraryKernel::kTiles, 0.5f);
  library_behaviour().set_ms(LibraryKernel::kInOrder, 0.75f);
  run(16, 0);
  expect_kernel(LibraryKernel::kTiles, 16, 0);
  const LibraryCounts cost = run(16, 1);
  EXPECT_GT(cost.products, 1);
  EXPECT_EQ(cost.refused, 0) << "what needs more alignment is not even tried";
  expect_kernel(LibraryKernel::kInOrder, 16, 1);
  expect_kernel(LibraryKernel::kTiles, 16, 8);
}

TEST_F(MatmulChoice, is_made_among_what_takes_the_alignment_at_hand) {
  const LibraryCounts before = library_counts();
  const Tensor narrow = x(16).slice_cols(1, 32);
  const Tensor matrix = Tensor::matrix(w().data, DType::kBF16, kOut, 32);
  EXPECT_TRUE(matmul_.run(narrow, matrix, nullptr, y(16), stream_));
  EXPECT_EQ(library_counts().by(LibraryKernel::kInOrder),
            before.by(LibraryKernel::kInOrder) + 1 + 3 + 1);
  EXPECT_EQ(library_counts().refused, before.refused);
  stream_.synchronize();
}

TEST_F(MatmulChoice, is_nothing_for_what_the_library_has_no_algorithm_for) {
  const LibraryCounts before = library_counts();
  const Tensor odd_x(x(16).data, DType::kBF16, 16, kIn - 1, kIn);
  const Tensor odd_w = Tensor::matrix(w().data, DType::kBF16, kOut, kIn - 1);
  EXPECT_FALSE(matmul_.run(odd_x, odd_w, nullptr, y(16), stream_));
  EXPECT_FALSE(matmul_.run(odd_x, odd_w, nullptr, y(16), stream_));
  EXPECT_EQ(library_counts().products, before.products);
}

TEST_F(MatmulChoice, is_not_made_anew_while_a_graph_is_recorded) {
  const auto capture = [&](int64_t rows) {
    cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal);
    const LibraryCounts before = library_counts();
    EXPECT_TRUE(matmul_.run(x(rows), w(), nullptr, y(rows), stream_));
    EXPECT_EQ(library_counts().captured, before.captured + 1);
    cudaGraph_t graph = nullptr;
    EXPECT_EQ(cudaStreamEndCapture(stream_.get(), &graph), cudaSuccess);
    return graph;
  };
  library_behaviour().set_ms(LibraryKernel::kTiles, 0.5f);
  run(16);
  run(13);  // which the class's choice does not take
  cudaGraphDestroy(capture(13));
  cudaGraph_t graph = capture(16);
  cudaGraphExec_t exec = nullptr;
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
  cudaMemsetAsync(y(16).data, 0, 16 * kOut * sizeof(uint16_t), stream_.get());
  cudaGraphLaunch(exec, stream_.get());
  std::vector<uint16_t> out(16 * kOut);
  cudaMemcpyAsync(out.data(), y(16).data, out.size() * sizeof(uint16_t), cudaMemcpyDeviceToHost,
                  stream_.get());
  stream_.synchronize();
  EXPECT_EQ(out, std::vector<uint16_t>(out.size(), 0x4280));  // 64
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
}

TEST_F(MatmulChoice, that_a_recording_broke_off_is_made_afterwards) {
  cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal);
  EXPECT_THROW(matmul_.run(x(16), w(), nullptr, y(16), stream_), CudaError);
  cudaGraph_t graph = nullptr;
  EXPECT_EQ(cudaStreamEndCapture(stream_.get(), &graph), cudaSuccess);
  cudaGraphDestroy(graph);
  EXPECT_GT(run(16).products, 1);
  const LibraryCounts cost = run(16);
  EXPECT_EQ(cost.products, 1);
  EXPECT_EQ(cost.heuristics, 0);
}

TEST_F(CublasLtTest, the_backend_leaves_no_descriptor_and_no_handle_behind) {
  const size_t before = emulator::living().size();
  {
    Matmul matmul(DType::kF16);
    const DeviceMemory memory = put(std::vector<uint16_t>(9 * 8));
    const Tensor x = Tensor::matrix(memory.get(), DType::kF16, 9, 8);
    const DeviceMemory y = allocate_device(9 * 9 * sizeof(float));
    EXPECT_TRUE(matmul.run(x, x, nullptr, Tensor::matrix(y.get(), DType::kF32, 9, 9), stream_));
    EXPECT_EQ(emulator::living().size(), before + 1);
    stream_.synchronize();
  }
  EXPECT_EQ(emulator::living().size(), before);
}

}  // namespace
}  // namespace cogserve::cuda
