#include "tests/engine/cuda_emulator/cublaslt.hpp"

#include <cublasLt.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <vector>

#include "tests/engine/cuda_emulator/cublaslt_clock.hpp"
#include "tests/engine/cuda_emulator/cublaslt_objects.hpp"
#include "tests/engine/cuda_emulator/cublaslt_product.hpp"

namespace cogserve::emulator {
namespace {

constexpr size_t kWorkspaceAlignment = 256;

// --- algorithms ----------------------------------------------------------------------------------

// What is in a cublasLtMatmulAlgo_t: of these types alone, as for cublasLtMatmulAlgoInit.
struct Algorithm {
  static constexpr uint32_t kMark = 0x600d600d;
  uint32_t mark;
  LibraryKernel kernel;
  int32_t splits;
  uint32_t reduction_scheme;
  cudaDataType_t operand_type;
  cudaDataType_t result_type;
};
static_assert(sizeof(Algorithm) <= sizeof(cublasLtMatmulAlgo_t));

std::optional<Algorithm> decode(const cublasLtMatmulAlgo_t* algo) {
  Algorithm algorithm = {};
  if (algo == nullptr) return std::nullopt;
  std::memcpy(&algorithm, algo, sizeof algorithm);
  if (algorithm.mark != Algorithm::kMark) return std::nullopt;
  return algorithm;
}

size_t alignment_of(LibraryKernel kernel) {
  switch (kernel) {
    case LibraryKernel::kTiles:
      return 16;
    case LibraryKernel::kSplit:
      return 8;
    case LibraryKernel::kPairs:
      return 4;
    case LibraryKernel::kInOrder:
      break;
  }
  return 1;
}

// Whole elements, too.
bool is_aligned(const void* address, cudaDataType_t type, size_t alignment) {
  const size_t all = std::max(alignment, library_type_bytes(type));
  return reinterpret_cast<uintptr_t>(address) % all == 0;
}

void apply(const Algorithm& algorithm, LibraryProduct* product) {
  product->kernel = algorithm.kernel;
  product->splits = algorithm.splits;
  product->part_type = algorithm.reduction_scheme == CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE
                           ? product->d.type
                           : CUDA_R_32F;
}

// Whether the layouts are such as the kernel takes.
bool takes(const Algorithm& algorithm, const LibraryProduct& product) {
  if (product.k % 2 != 0) return false;
  const size_t alignment = alignment_of(algorithm.kernel);
  for (const LibraryMatrix& matrix : {product.a, product.b, product.c, product.d}) {
    if (matrix.ld * library_type_bytes(matrix.type) % alignment != 0) return false;
  }
  if (algorithm.kernel == LibraryKernel::kTiles) return product.n % 8 == 0;
  if (algorithm.kernel == LibraryKernel::kSplit) return product.k >= 32;
  return true;
}

constexpr int kDecoy = 1;  // what fills the result that is not to be used

// In the order of how fast they should be.
std::vector<Algorithm> algorithms_for(const LibraryProduct& product) {
  const cudaDataType_t from = product.a.type, to = product.d.type;
  constexpr uint32_t kMark = Algorithm::kMark;
  const int splits = product.k >= 128 ? 4 : 2;
  return {{kMark, LibraryKernel::kTiles, 1, CUBLASLT_REDUCTION_SCHEME_NONE, from, to},
          {kMark, LibraryKernel::kSplit, splits, CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE, from, to},
          {kMark, LibraryKernel::kSplit, splits, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, from, to},
          {kMark, LibraryKernel::kPairs, 1, CUBLASLT_REDUCTION_SCHEME_NONE, from, to},
          {kMark, LibraryKernel::kInOrder, 1, CUBLASLT_REDUCTION_SCHEME_NONE, from, to}};
}

bool is_preferred(const Algorithm& algorithm, const LibraryProduct& product,
                  const cublasLtMatmulPreferenceOpaque_t& preference) {
  // NONE is not a bit: what is not split has nothing to reduce.
  if (algorithm.splits > 1 &&
      (algorithm.reduction_scheme & preference.reduction_schemes) != algorithm.reduction_scheme) {
    return false;
  }
  const size_t alignment = alignment_of(algorithm.kernel);
  for (const uint32_t promised : preference.alignments) {
    if (promised < alignment) return false;
  }
  if (!is_aligned(product.bias, product.d.type, alignment)) return false;
  return workspace_bytes(product) <= preference.workspace_bytes;
}

void write_result(const Algorithm& algorithm, cublasStatus_t state, size_t workspace,
                  cublasLtMatmulHeuristicResult_t* result) {
  *result = {
      .algo = {}, .workspaceSize = workspace, .state = state, .wavesCount = 1.0f, .reserved = {}};
  std::memcpy(&result->algo, &algorithm, sizeof algorithm);
}

// --- arguments -----------------------------------------------------------------------------------

struct Arguments {
  cublasLtHandle_t handle;
  cublasLtMatmulDesc_t operation;
  cublasLtMatrixLayout_t a;
  cublasLtMatrixLayout_t b;
  cublasLtMatrixLayout_t c;
  cublasLtMatrixLayout_t d;
};

LibraryMatrix matrix_of(const cublasLtMatrixLayoutOpaque_t& layout) {
  return {nullptr, layout.type, static_cast<int64_t>(layout.rows),
          static_cast<int64_t>(layout.cols), layout.ld};
}

cublasStatus_t check_layout(const cublasLtMatrixLayoutOpaque_t& layout, bool is_c) {
  constexpr uint64_t kMost = std::numeric_limits<int32_t>::max();
  if (layout.rows == 0 || layout.cols == 0) return CUBLAS_STATUS_INVALID_VALUE;
  if (layout.rows > kMost || layout.cols > kMost) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (is_c && layout.ld == 0) return CUBLAS_STATUS_SUCCESS;  // one column for all
  if (layout.ld < static_cast<int64_t>(layout.rows)) return CUBLAS_STATUS_INVALID_VALUE;
  return CUBLAS_STATUS_SUCCESS;
}

// The documentation's table for CUBLAS_COMPUTE_32F, without integers and complex numbers.
cublasStatus_t check_types(const Arguments& of) {
  if (of.operation->compute_type != CUBLAS_COMPUTE_32F || of.operation->scale_type != CUDA_R_32F) {
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  const cudaDataType_t operands = of.a->type, result = of.d->type;
  if (operands != CUDA_R_32F && operands != CUDA_R_16F && operands != CUDA_R_16BF) {
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  if (of.b->type != operands || of.c->type != result) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (result != operands && result != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (of.operation->epilogue == CUBLASLT_EPILOGUE_BIAS && of.operation->bias_type != -1 &&
      of.operation->bias_type != result) {
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  return CUBLAS_STATUS_SUCCESS;
}

bool is_transposed(int32_t operation) { return operation != CUBLAS_OP_N; }

cublasStatus_t check_operation(const cublasLtMatmulDescOpaque_t& operation) {
  for (const int32_t transform : {operation.a_operation, operation.b_operation}) {
    // The conjugate of a real number is itself.
    if (transform < CUBLAS_OP_N || transform > CUBLAS_OP_C) return CUBLAS_STATUS_INVALID_VALUE;
  }
  const bool known = operation.epilogue == CUBLASLT_EPILOGUE_DEFAULT ||
                     operation.epilogue == CUBLASLT_EPILOGUE_BIAS;
  return known ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

// The product but for its memory, if the descriptors fit each other.
cublasStatus_t describe(const Arguments& of, LibraryProduct* product) {
  if (!lives(of.handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (!lives(of.operation)) return CUBLAS_STATUS_INVALID_VALUE;
  for (const auto* layout : {of.a, of.b, of.c, of.d}) {
    if (!lives(layout)) return CUBLAS_STATUS_INVALID_VALUE;
    const cublasStatus_t status = check_layout(*layout, layout == of.c && layout != of.d);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
  }
  if (const auto status = check_operation(*of.operation); status != CUBLAS_STATUS_SUCCESS) {
    return status;
  }
  if (const auto status = check_types(of); status != CUBLAS_STATUS_SUCCESS) return status;
  product->a = matrix_of(*of.a);
  product->b = matrix_of(*of.b);
  product->c = matrix_of(*of.c);
  product->d = matrix_of(*of.d);
  product->a_transposed = is_transposed(of.operation->a_operation);
  product->b_transposed = is_transposed(of.operation->b_operation);
  product->m = product->a_transposed ? product->a.cols : product->a.rows;
  product->k = product->a_transposed ? product->a.rows : product->a.cols;
  product->n = product->b_transposed ? product->b.rows : product->b.cols;
  const int64_t b_k = product->b_transposed ? product->b.cols : product->b.rows;
  const bool fit = b_k == product->k && product->d.rows == product->m &&
                   product->d.cols == product->n && product->c.rows == product->m &&
                   product->c.cols == product->n;
  if (!fit) return CUBLAS_STATUS_INVALID_VALUE;
  if (of.operation->epilogue == CUBLASLT_EPILOGUE_BIAS) product->bias = of.operation->bias;
  return CUBLAS_STATUS_SUCCESS;
}

// The same with an algorithm that takes the layouts.
cublasStatus_t describe(const Arguments& of, const cublasLtMatmulAlgo_t* algo,
                        LibraryProduct* product) {
  const cublasStatus_t status = describe(of, product);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  const std::optional<Algorithm> algorithm = decode(algo);
  if (!algorithm || algorithm->operand_type != product->a.type ||
      algorithm->result_type != product->d.type) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  if (!takes(*algorithm, *product)) return CUBLAS_STATUS_NOT_SUPPORTED;
  apply(*algorithm, product);
  return CUBLAS_STATUS_SUCCESS;
}

// What cannot be known from layouts.
cublasStatus_t check_memory(const Arguments& of, const LibraryProduct& product,
                            size_t workspace_size) {
  const size_t alignment = alignment_of(product.kernel);
  for (const LibraryMatrix& matrix : {product.a, product.b, product.c, product.d}) {
    if (matrix.data == nullptr || !is_aligned(matrix.data, matrix.type, alignment)) {
      return CUBLAS_STATUS_INVALID_VALUE;
    }
  }
  if (product.c.data == product.d.data && !(*of.c == *of.d)) return CUBLAS_STATUS_INVALID_VALUE;
  if (of.operation->epilogue == CUBLASLT_EPILOGUE_BIAS &&
      (product.bias == nullptr || !is_aligned(product.bias, product.d.type, alignment))) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  const size_t needed = workspace_bytes(product);
  if (workspace_size < needed || (needed > 0 && product.workspace == nullptr) ||
      reinterpret_cast<uintptr_t>(product.workspace) % kWorkspaceAlignment != 0) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  const bool refused = library_behaviour().refused[static_cast<int>(product.kernel)];
  return refused ? CUBLAS_STATUS_NOT_SUPPORTED : CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t refuse(cublasStatus_t status) {
  ++library_counts().refused;
  return status;
}

}  // namespace
}  // namespace cogserve::emulator

using namespace cogserve::emulator;

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle,
                                              cublasLtMatmulDesc_t operation,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t results[],
                                              int* returned) {
  ++library_counts().heuristics;
  if (is_capturing()) return CUBLAS_STATUS_INTERNAL_ERROR;
  if (requested <= 0 || results == nullptr || returned == nullptr || !lives(preference)) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  *returned = 0;
  LibraryProduct product;
  const cublasStatus_t status = describe({handle, operation, a, b, c, d}, &product);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  const std::vector<Algorithm> algorithms = algorithms_for(product);
  for (const Algorithm& algorithm : algorithms) {
    if (*returned == requested) break;
    if (*returned == 1) {  // which looks like an algorithm, and is none of the preferred
      write_result(algorithms[kDecoy], CUBLAS_STATUS_NOT_SUPPORTED, 0, &results[*returned]);
      if (++*returned == requested) break;
    }
    apply(algorithm, &product);
    if (!takes(algorithm, product) || !is_preferred(algorithm, product, *preference)) continue;
    write_result(algorithm, CUBLAS_STATUS_SUCCESS, workspace_bytes(product),
                 &results[(*returned)++]);
  }
  return *returned > 0 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t* algo,
                                       cublasLtMatmulHeuristicResult_t* result) {
  if (is_capturing()) return CUBLAS_STATUS_INTERNAL_ERROR;
  if (result == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  LibraryProduct product;
  const cublasStatus_t status = describe({handle, operation, a, b, c, d}, algo, &product);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  result->workspaceSize = workspace_bytes(product);  // algo is never updated
  result->state = CUBLAS_STATUS_SUCCESS;
  result->wavesCount = 1.0f;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                              const void* alpha, const void* a, cublasLtMatrixLayout_t a_layout,
                              const void* b, cublasLtMatrixLayout_t b_layout, const void* beta,
                              const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algo,
                              void* workspace, size_t workspace_bytes_given, cudaStream_t stream) {
  const Arguments arguments = {handle, operation, a_layout, b_layout, c_layout, d_layout};
  LibraryProduct product;
  if (const auto status = describe(arguments, algo, &product); status != CUBLAS_STATUS_SUCCESS) {
    return refuse(status);
  }
  if (alpha == nullptr || beta == nullptr || stream == nullptr) {
    return refuse(CUBLAS_STATUS_INVALID_VALUE);
  }
  product.alpha = *static_cast<const float*>(alpha);
  product.beta = *static_cast<const float*>(beta);
  product.a.data = const_cast<void*>(a);
  product.b.data = const_cast<void*>(b);
  product.c.data = const_cast<void*>(c);
  product.d.data = d;
  product.workspace = workspace;
  if (const auto status = check_memory(arguments, product, workspace_bytes_given);
      status != CUBLAS_STATUS_SUCCESS) {
    return refuse(status);
  }
  give(product, stream);
  return CUBLAS_STATUS_SUCCESS;
}
