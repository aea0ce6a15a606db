// What the handles of the emulator's cuBLASLt point to.
#pragma once

#include <cublasLt.h>

#include <cstdint>
#include <set>

struct cublasLtContext {};
struct cublasLtMatrixLayoutOpaque_t {
  cudaDataType_t type;
  uint64_t rows;
  uint64_t cols;
  int64_t ld;
  bool operator==(const cublasLtMatrixLayoutOpaque_t&) const = default;
};
struct cublasLtMatmulDescOpaque_t {
  cublasComputeType_t compute_type;
  cudaDataType_t scale_type;
  int32_t a_operation = CUBLAS_OP_N;
  int32_t b_operation = CUBLAS_OP_N;
  uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const void* bias = nullptr;
  int32_t bias_type = -1;  // D's
};
struct cublasLtMatmulPreferenceOpaque_t {
  uint64_t workspace_bytes = 0;
  uint32_t reduction_schemes = CUBLASLT_REDUCTION_SCHEME_MASK;
  uint32_t alignments[4] = {256, 256, 256, 256};  // of A, B, C, D
};

namespace cogserve::emulator {

// Everything that was created and not destroyed yet.
std::set<const void*>& living();

template <typename Object>
bool lives(const Object* object) {
  return object != nullptr && living().contains(object);
}

}  // namespace cogserve::emulator
