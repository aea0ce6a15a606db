// The emulator's cuBLASLt: that it computes what the documentation says, and refuses the rest.
#include <cublasLt.h>
#include <gtest/gtest.h>

#include <vector>

#include "engine/backend/cuda/device_memory.hpp"
#include "tests/engine/cuda_emulator/cublaslt.hpp"

namespace cogserve::cuda {
namespace {

using emulator::LibraryKernel;

// D [4, 8] = op(A) op(B), k = 32: whatever all kernels take.
class EmulatedLibrary : public ::testing::Test {
 protected:
  static constexpr int64_t kM = 4, kN = 8, kK = 32;
  static constexpr size_t kWorkspace = 1 << 20;

  EmulatedLibrary() {
    cublasLtCreate(&handle_);
    describe(CUBLAS_COMPUTE_32F, CUDA_R_32F);
    set_layout(&a_, CUDA_R_32F, kM, kK, kM);
    set_layout(&b_, CUDA_R_32F, kK, kN, kK);
    set_layout(&d_, CUDA_R_32F, kM, kN, kM);
    cublasLtMatmulPreferenceCreate(&preference_);
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{kWorkspace});
  }
  ~EmulatedLibrary() override {
    emulator::library_behaviour() = {};
    for (cublasLtMatrixLayout_t layout : {a_, b_, d_}) cublasLtMatrixLayoutDestroy(layout);
    cublasLtMatmulDescDestroy(operation_);
    cublasLtMatmulPreferenceDestroy(preference_);
    cublasLtDestroy(handle_);
  }

  void describe(cublasComputeType_t compute_type, cudaDataType_t scale_type) {
    if (operation_ != nullptr) cublasLtMatmulDescDestroy(operation_);
    cublasLtMatmulDescCreate(&operation_, compute_type, scale_type);
  }
  static void set_layout(cublasLtMatrixLayout_t* layout, cudaDataType_t type, int64_t rows,
                         int64_t cols, int64_t ld) {
    if (*layout != nullptr) cublasLtMatrixLayoutDestroy(*layout);
    cublasLtMatrixLayoutCreate(layout, type, rows, cols, ld);
  }
  template <typename Value>
  cublasStatus_t set(cublasLtMatmulDescAttributes_t attribute, Value value) {
    return cublasLtMatmulDescSetAttribute(operation_, attribute, &value, sizeof value);
  }
  template <typename Value>
  cublasStatus_t prefer(cublasLtMatmulPreferenceAttributes_t attribute, Value value) {
    return cublasLtMatmulPreferenceSetAttribute(preference_, attribute, &value, sizeof value);
  }

  cublasStatus_t ask(std::vector<cublasLtMatmulHeuristicResult_t>* usable) {
    std::vector<cublasLtMatmulHeuristicResult_t> results(8);
    int found = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle_, operation_, a_, b_, d_, d_, preference_,
                                       static_cast<int>(results.size()), results.data(), &found);
    usable->clear();
    for (int i = 0; i < found; ++i) {
      if (results[i].state == CUBLAS_STATUS_SUCCESS) usable->push_back(results[i]);
    }
    return status;
  }
  cublasStatus_t ask() {
    std::vector<cublasLtMatmulHeuristicResult_t> usable;
    return ask(&usable);
  }
  size_t candidates() {
    std::vector<cublasLtMatmulHeuristicResult_t> usable;
    ask(&usable);
    return usable.size();
  }

  DeviceMemory put(int64_t count, int seed) {
    std::vector<float> values(count);
    for (int64_t i = 0; i < count; ++i) values[i] = static_cast<float>((i * 7 + seed) % 5 - 2);
    DeviceMemory memory = allocate_device(count * sizeof(float));
    cudaMemcpyAsync(memory.get(), values.data(), count * sizeof(float), cudaMemcpyHostToDevice,
                    stream_.get());
    stream_.synchronize();
    return memory;
  }
  std::vector<float> get(const DeviceMemory& memory, int64_t count) {
    std::vector<float> values(count);
    cudaMemcpyAsync(values.data(), memory.get(), count * sizeof(float), cudaMemcpyDeviceToHost,
                    stream_.get());
    stream_.synchronize();
    return values;
  }

  cublasStatus_t multiply(const cublasLtMatmulAlgo_t& algo, void* workspace, size_t bytes,
                          int64_t d_offset = 0) {
    float* const d = static_cast<float*>(d_memory_.get()) + d_offset;
    return cublasLtMatmul(handle_, operation_, &alpha_, a_memory_.get(), a_, b_memory_.get(), b_,
                          &beta_, d, d_, d, d_, &algo, workspace, bytes, stream_.get());
  }

  Stream stream_;
  cublasLtHandle_t handle_ = nullptr;
  cublasLtMatmulDesc_t operation_ = nullptr;
  cublasLtMatrixLayout_t a_ = nullptr;
  cublasLtMatrixLayout_t b_ = nullptr;
  cublasLtMatrixLayout_t d_ = nullptr;
  cublasLtMatmulPreference_t preference_ = nullptr;
  float alpha_ = 1.0f;
  float beta_ = 0.0f;
  DeviceMemory a_memory_ = put(kM * kK, 1);
  DeviceMemory b_memory_ = put(kK * kN, 2);
  DeviceMemory d_memory_ = put(kM * kN + 4, 3);
  DeviceMemory bias_memory_ = put(kM + 1, 4);
  DeviceMemory workspace_ = allocate_device(kWorkspace);
};

TEST_F(EmulatedLibrary, computes_the_documented_product_with_every_kernel) {
  std::vector<cublasLtMatmulHeuristicResult_t> algorithms;
  const std::vector<float> a = get(a_memory_, kM * kK), b = get(b_memory_, kK * kN);
  const std::vector<float> c = get(d_memory_, kM * kN), bias = get(bias_memory_, kM);
  set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
  set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, static_cast<const void*>(bias_memory_.get()));
  for (const int turned : {0, 1, 2, 3}) {
    const bool a_turned = turned % 2 != 0, b_turned = turned / 2 != 0;
    set(CUBLASLT_MATMUL_DESC_TRANSA, a_turned ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_TRANSB, b_turned ? CUBLAS_OP_T : CUBLAS_OP_N);
    set_layout(&a_, CUDA_R_32F, a_turned ? kK : kM, a_turned ? kM : kK, a_turned ? kK : kM);
    set_layout(&b_, CUDA_R_32F, b_turned ? kN : kK, b_turned ? kK : kN, b_turned ? kN : kK);
    ASSERT_EQ(ask(&algorithms), CUBLAS_STATUS_SUCCESS);
    ASSERT_EQ(algorithms.size(), 5u);
    for (const auto& algorithm : algorithms) {
      d_memory_ = put(kM * kN + 4, 3);
      alpha_ = 2.0f;
      beta_ = 3.0f;
      ASSERT_EQ(multiply(algorithm.algo, workspace_.get(), kWorkspace), CUBLAS_STATUS_SUCCESS);
      alpha_ = beta_ = 100.0f;  // they have been read
      const std::vector<float> d = get(d_memory_, kM * kN);
      for (int64_t i = 0; i < kM * kN; ++i) {
        const int64_t row = i % kM, col = i / kM;
        float sum = 0.0f;
        for (int64_t k = 0; k < kK; ++k) {
          sum += (a_turned ? a[row * kK + k] : a[k * kM + row]) *
                 (b_turned ? b[k * kN + col] : b[col * kK + k]);
        }
        ASSERT_EQ(d[i], 2.0f * sum + 3.0f * c[i] + bias[row]) << row << ", " << col;
      }
    }
  }
}

TEST_F(EmulatedLibrary, refuses_values_of_another_size_than_the_attributes) {
  EXPECT_EQ(set(CUBLASLT_MATMUL_DESC_TRANSA, int32_t{CUBLAS_OP_T}), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(set(CUBLASLT_MATMUL_DESC_TRANSA, int64_t{CUBLAS_OP_T}), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(set(CUBLASLT_MATMUL_DESC_EPILOGUE, uint8_t{CUBLASLT_EPILOGUE_BIAS}),
            CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, int32_t{0}), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, int16_t{0}), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(cublasLtMatmulDescSetAttribute(operation_, CUBLASLT_MATMUL_DESC_TRANSA, nullptr, 4),
            CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint32_t{64}),
            CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint64_t{2}),
            CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, size_t{16}),
            CUBLAS_STATUS_INVALID_VALUE);
}

TEST_F(EmulatedLibrary, refuses_layouts_that_do_not_fit_each_other) {
  EXPECT_EQ(ask(), CUBLAS_STATUS_SUCCESS);
  set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  EXPECT_EQ(ask(), CUBLAS_STATUS_INVALID_VALUE);
  set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_N);
  set_layout(&b_, CUDA_R_32F, kK + 2, kN, kK + 2);
  EXPECT_EQ(ask(), CUBLAS_STATUS_INVALID_VALUE) << "another k";
  set_layout(&b_, CUDA_R_32F, kK, kN, kK - 1);
  EXPECT_EQ(ask(), CUBLAS_STATUS_INVALID_VALUE) << "overlapping columns";
  set_layout(&b_, CUDA_R_32F, kK, kN, kK);
  set_layout(&d_, CUDA_R_32F, kM, kN + 1, kM);
  EXPECT_EQ(ask(), CUBLAS_STATUS_INVALID_VALUE) << "another n";
  set_layout(&d_, CUDA_R_32F, kN, kM, kN);
  EXPECT_EQ(ask(), CUBLAS_STATUS_INVALID_VALUE) << "rows for columns";
}

TEST_F(EmulatedLibrary, refuses_types_that_the_documentation_does_not_list) {
  const auto types = [&](cudaDataType_t from, cudaDataType_t to) {
    set_layout(&a_, from, kM, kK, kM);
    set_layout(&b_, from, kK, kN, kK);
    set_layout(&d_, to, kM, kN, kM);
    return ask();
  };
  for (const cudaDataType_t type : {CUDA_R_16F, CUDA_R_16BF, CUDA_R_32F}) {
    EXPECT_EQ(types(type, type), CUBLAS_STATUS_SUCCESS);
    EXPECT_EQ(types(type, CUDA_R_32F), CUBLAS_STATUS_SUCCESS);
    EXPECT_EQ(types(CUDA_R_32F, type) == CUBLAS_STATUS_SUCCESS, type == CUDA_R_32F);
  }
  EXPECT_EQ(types(CUDA_R_16F, CUDA_R_16BF), CUBLAS_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(types(CUDA_R_64F, CUDA_R_64F), CUBLAS_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(types(CUDA_R_16BF, CUDA_R_16BF), CUBLAS_STATUS_SUCCESS);
  set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
  set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, static_cast<int32_t>(CUDA_R_32F));
  EXPECT_EQ(ask(), CUBLAS_STATUS_NOT_SUPPORTED) << "a bias of another type than D's";
  describe(CUBLAS_COMPUTE_32F, CUDA_R_16F);
  EXPECT_EQ(ask(), CUBLAS_STATUS_NOT_SUPPORTED);
  describe(CUBLAS_COMPUTE_16F, CUDA_R_32F);
  EXPECT_EQ(ask(), CUBLAS_STATUS_NOT_SUPPORTED);
}

TEST_F(EmulatedLibrary, keeps_to_the_preferences) {
  EXPECT_EQ(candidates(), 5u);
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
         static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  EXPECT_EQ(candidates(), 4u);
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{0});
  EXPECT_EQ(candidates(), 3u);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, uint32_t{8});
  EXPECT_EQ(candidates(), 2u);
  set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
  set(CUBLASLT_MATMUL_DESC_BIAS_POINTER,
      static_cast<const void*>(static_cast<const char*>(bias_memory_.get()) + 2));
  EXPECT_EQ(candidates(), 0u) << "not whole elements";
}

TEST_F(EmulatedLibrary, refuses_memory_that_an_algorithm_cannot_take) {
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
         static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  std::vector<cublasLtMatmulHeuristicResult_t> algorithms;
  ASSERT_EQ(ask(&algorithms), CUBLAS_STATUS_SUCCESS);
  const cublasLtMatmulHeuristicResult_t& tiles = algorithms[0];
  const cublasLtMatmulHeuristicResult_t& split = algorithms[1];
  EXPECT_EQ(multiply(tiles.algo, nullptr, 0), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(multiply(tiles.algo, nullptr, 0, 1), CUBLAS_STATUS_INVALID_VALUE);
  ASSERT_EQ(split.workspaceSize, 2 * kM * kN * sizeof(float));
  char* const workspace = static_cast<char*>(workspace_.get());
  EXPECT_EQ(multiply(split.algo, workspace, split.workspaceSize), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(multiply(split.algo, workspace, split.workspaceSize - 1), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(multiply(split.algo, workspace + 16, kWorkspace - 16), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(multiply(split.algo, nullptr, kWorkspace), CUBLAS_STATUS_INVALID_VALUE);
  set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
  EXPECT_EQ(multiply(tiles.algo, nullptr, 0), CUBLAS_STATUS_INVALID_VALUE) << "no bias";
  set(CUBLASLT_MATMUL_DESC_BIAS_POINTER,
      static_cast<const void*>(static_cast<const float*>(bias_memory_.get()) + 1));
  cublasLtMatmulHeuristicResult_t result;
  EXPECT_EQ(cublasLtMatmulAlgoCheck(handle_, operation_, a_, b_, d_, d_, &tiles.algo, &result),
            CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(multiply(tiles.algo, nullptr, 0), CUBLAS_STATUS_INVALID_VALUE) << "its alignment";
}

TEST_F(EmulatedLibrary, refuses_algorithms_that_are_none_or_of_other_types) {
  std::vector<cublasLtMatmulHeuristicResult_t> algorithms;
  ASSERT_EQ(ask(&algorithms), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(multiply({}, workspace_.get(), kWorkspace), CUBLAS_STATUS_INVALID_VALUE);
  set_layout(&a_, CUDA_R_16F, kM, kK, kM);
  set_layout(&b_, CUDA_R_16F, kK, kN, kK);
  EXPECT_EQ(multiply(algorithms[0].algo, workspace_.get(), kWorkspace),
            CUBLAS_STATUS_INVALID_VALUE);
  const cublasLtMatrixLayout_t destroyed = d_;
  cublasLtMatrixLayoutDestroy(destroyed);
  EXPECT_EQ(ask(), CUBLAS_STATUS_INVALID_VALUE);
}

TEST_F(EmulatedLibrary, tells_the_time_of_products_that_were_waited_for) {
  std::vector<cublasLtMatmulHeuristicResult_t> algorithms;
  ASSERT_EQ(ask(&algorithms), CUBLAS_STATUS_SUCCESS);
  emulator::library_behaviour().set_ms(LibraryKernel::kTiles, 2.0f);
  cudaEvent_t begin = nullptr, end = nullptr;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  float ms = 0.0f;
  EXPECT_EQ(cudaEventElapsedTime(&ms, begin, end), cudaErrorInvalidResourceHandle);
  multiply(algorithms[0].algo, nullptr, 0);
  cudaEventRecord(begin, stream_.get());
  multiply(algorithms[0].algo, nullptr, 0);
  multiply(algorithms[0].algo, nullptr, 0);
  cudaEventRecord(end, stream_.get());
  multiply(algorithms[0].algo, nullptr, 0);
  EXPECT_EQ(cudaEventElapsedTime(&ms, begin, end), cudaErrorNotReady);
  cudaEventSynchronize(end);
  EXPECT_EQ(cudaEventElapsedTime(&ms, begin, end), cudaSuccess);
  EXPECT_EQ(ms, 4.0f);
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  stream_.synchronize();
}

}  // namespace
}  // namespace cogserve::cuda
