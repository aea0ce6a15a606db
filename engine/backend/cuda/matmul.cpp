#include "engine/backend/cuda/matmul.hpp"

#include <cublasLt.h>

#include <algorithm>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "engine/backend/cuda/error.hpp"
#include "engine/backend/cuda/matmul_key.hpp"
#include "engine/backend/cuda/own_memory.hpp"
#include "engine/base/check.hpp"

namespace cogserve::cuda {
namespace {

void check_cublas(cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw CudaError(std::string(call) + ": " + cublasLtGetStatusName(status) + " (" +
                  cublasLtGetStatusString(status) + ")");
}

cudaDataType_t library_type(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return CUDA_R_32F;
    case DType::kBF16:
      return CUDA_R_16BF;
    case DType::kF16:
      return CUDA_R_16F;
    case DType::kI32:
      break;
  }
  check(false, "matrix products are of floats");
  return CUDA_R_32F;
}

// Column-major [rows, cols].
class Layout {
 public:
  Layout(cudaDataType_t type, uint64_t rows, uint64_t cols, int64_t leading) {
    check_cublas(cublasLtMatrixLayoutCreate(&layout_, type, rows, cols, leading),
                 "cublasLtMatrixLayoutCreate");
  }
  Layout(const Layout&) = delete;
  Layout& operator=(const Layout&) = delete;
  ~Layout() { cublasLtMatrixLayoutDestroy(layout_); }
  cublasLtMatrixLayout_t get() const { return layout_; }

 private:
  cublasLtMatrixLayout_t layout_ = nullptr;
};

// f32 sums, the first matrix transposed, a bias for each row of the result if there is one.
class Operation {
 public:
  Operation(const void* bias, cudaDataType_t bias_type) {
    check_cublas(cublasLtMatmulDescCreate(&operation_, CUBLAS_COMPUTE_32F, CUDA_R_32F),
                 "cublasLtMatmulDescCreate");
    set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    if (bias == nullptr) return;
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, static_cast<int32_t>(bias_type));
    set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
  }
  Operation(const Operation&) = delete;
  Operation& operator=(const Operation&) = delete;
  ~Operation() { cublasLtMatmulDescDestroy(operation_); }
  cublasLtMatmulDesc_t get() const { return operation_; }

 private:
  template <typename Value>
  void set(cublasLtMatmulDescAttributes_t attribute, const Value& value) {
    check_cublas(cublasLtMatmulDescSetAttribute(operation_, attribute, &value, sizeof value),
                 "cublasLtMatmulDescSetAttribute");
  }

  cublasLtMatmulDesc_t operation_ = nullptr;
};

class Preference {
 public:
  explicit Preference(int alignment) {
    check_cublas(cublasLtMatmulPreferenceCreate(&preference_), "cublasLtMatmulPreferenceCreate");
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kMatmulWorkspaceBytes);
    // Parts of a product that is split are summed in f32, not in the type of the result.
    set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
        static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    const auto bytes = static_cast<uint32_t>(alignment);
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, bytes);
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, bytes);
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, bytes);
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, bytes);
  }
  Preference(const Preference&) = delete;
  Preference& operator=(const Preference&) = delete;
  ~Preference() { cublasLtMatmulPreferenceDestroy(preference_); }
  cublasLtMatmulPreference_t get() const { return preference_; }

 private:
  template <typename Value>
  void set(cublasLtMatmulPreferenceAttributes_t attribute, const Value& value) {
    check_cublas(cublasLtMatmulPreferenceSetAttribute(preference_, attribute, &value, sizeof value),
                 "cublasLtMatmulPreferenceSetAttribute");
  }

  cublasLtMatmulPreference_t preference_ = nullptr;
};

// Device time between two points of a stream.
class Stopwatch {
 public:
  Stopwatch() {
    check_cuda(cudaEventCreate(&begin_), "cudaEventCreate");
    check_cuda(cudaEventCreate(&end_), "cudaEventCreate");
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;
  ~Stopwatch() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }

  void start(const Stream& stream) { record(begin_, stream); }
  // Waits.
  float stop_ms(const Stream& stream) {
    record(end_, stream);
    check_cuda(cudaEventSynchronize(end_), "cudaEventSynchronize");
    float ms = 0.0f;
    check_cuda(cudaEventElapsedTime(&ms, begin_, end_), "cudaEventElapsedTime");
    return ms;
  }

 private:
  static void record(cudaEvent_t event, const Stream& stream) {
    check_cuda(cudaEventRecord(event, stream.get()), "cudaEventRecord");
  }

  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
};

}  // namespace

class Matmul::Library {
 public:
  explicit Library(DType activation)
      : activation_(library_type(activation)), workspace_(allocate_device(kMatmulWorkspaceBytes)) {
    check_cublas(cublasLtCreate(&handle_), "cublasLtCreate");
  }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;
  ~Library() { cublasLtDestroy(handle_); }

  bool run(const MatmulShape& shape, const Tensor& x, const Tensor& w, const void* bias,
           const Tensor& y, const Stream& stream) {
    const Product product(activation_, shape, x, w, bias, y);
    const ExactShape exactly = {matmul_key(shape), shape.rows};
    auto entry = settled_.find(exactly);
    if (entry == settled_.end()) {
      entry = settled_.emplace(exactly, settle(product, exactly.key, stream)).first;
    }
    for (const bool again : {false, true}) {
      if (!entry->second) return false;
      const cublasStatus_t status = multiply(product, *entry->second, stream);
      if (status != CUBLAS_STATUS_NOT_SUPPORTED) {
        check_cublas(status, "cublasLtMatmul");
        return true;
      }
      // That the library offered an algorithm, and checked it, is no promise that it runs. Another
      // is chosen, by running it.
      choices_.erase(exactly.key);
      entry->second = again ? std::nullopt : settle(product, exactly.key, stream);
    }
    return false;
  }

 private:
  using Algorithm = cublasLtMatmulAlgo_t;

  struct ExactShape {
    MatmulKey key;
    int64_t rows;
    auto operator<=>(const ExactShape&) const = default;
  };

  static constexpr int kCandidates = 8;
  static constexpr int kTimedRuns = 3;  // the best counts

  // Row-major y = x W^T is column-major y^T = W x^T: W stored by rows is its own transpose by
  // columns.
  struct Product {
    Product(cudaDataType_t activation, const MatmulShape& of, const Tensor& x_rows,
            const Tensor& w_rows, const void* bias, const Tensor& y_rows)
        : shape(of),
          x(x_rows.data),
          w(w_rows.data),
          y(y_rows.data),
          x_type(activation),
          y_type(library_type(of.y_dtype)),
          operation(bias, y_type),
          w_layout(activation, of.in, of.out, of.in),
          x_layout(activation, of.in, of.rows, of.x_stride),
          y_layout(y_type, of.out, of.rows, of.y_stride) {}

    MatmulShape shape;
    const void* x;
    const void* w;
    void* y;
    cudaDataType_t x_type;
    cudaDataType_t y_type;
    Operation operation;
    Layout w_layout;
    Layout x_layout;
    Layout y_layout;
  };

  // The algorithm for so many rows: their class's where it takes them.
  std::optional<Algorithm> settle(const Product& product, const MatmulKey& key,
                                  const Stream& stream) {
    auto entry = choices_.find(key);
    if (entry == choices_.end()) {
      entry = choices_.emplace(key, choose(product, key.row_class, stream)).first;
    }
    const std::optional<Algorithm>& choice = entry->second;
    return choice && suits(*choice, product) ? choice : first(product, product.shape.rows);
  }

  // The heuristic's best for so many rows, at most `most`.
  std::vector<Algorithm> ask(const Product& product, int64_t rows, int most) {
    const Layout x_layout(product.x_type, product.shape.in, rows, product.shape.x_stride);
    const Layout y_layout(product.y_type, product.shape.out, rows, product.shape.y_stride);
    const Preference preference(product.shape.alignment);
    std::vector<cublasLtMatmulHeuristicResult_t> results(most);
    int found = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        handle_, product.operation.get(), product.w_layout.get(), x_layout.get(), y_layout.get(),
        y_layout.get(), preference.get(), most, results.data(), &found);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED) return {};
    check_cublas(status, "cublasLtMatmulAlgoGetHeuristic");
    std::vector<Algorithm> algorithms;
    for (int i = 0; i < found; ++i) {
      if (results[i].state == CUBLAS_STATUS_SUCCESS) algorithms.push_back(results[i].algo);
    }
    return algorithms;
  }

  std::optional<Algorithm> first(const Product& product, int64_t rows) {
    const std::vector<Algorithm> found = ask(product, rows, 1);
    return found.empty() ? std::nullopt : std::optional(found.front());
  }

  // The fastest of the candidates for the class, by running them; y is written anew afterwards.
  std::optional<Algorithm> choose(const Product& product, int64_t rows, const Stream& stream) {
    std::optional<Algorithm> best;
    float best_ms = 0.0f;
    for (const Algorithm& candidate : ask(product, rows, kCandidates)) {
      if (!suits(candidate, product)) continue;
      const std::optional<float> ms = time(product, candidate, stream);
      if (!ms || (best && *ms >= best_ms)) continue;
      best = candidate;
      best_ms = *ms;
    }
    return best;
  }

  // Nothing if the library refuses it after all.
  std::optional<float> time(const Product& product, const Algorithm& algorithm,
                            const Stream& stream) {
    if (multiply(product, algorithm, stream) != CUBLAS_STATUS_SUCCESS) return std::nullopt;
    float best = std::numeric_limits<float>::max();
    Stopwatch stopwatch;
    for (int i = 0; i < kTimedRuns; ++i) {
      // Ends after the product is queued, so that no launch is timed; and takes the place of
      // operands in the L2 cache, where a model's own products seldom find theirs.
      check_cuda(cudaMemsetAsync(workspace_.get(), 0, kMatmulWorkspaceBytes, stream.get()),
                 "cudaMemsetAsync");
      stopwatch.start(stream);
      check_cublas(multiply(product, algorithm, stream), "cublasLtMatmul");
      best = std::min(best, stopwatch.stop_ms(stream));
    }
    return best;
  }

  cublasStatus_t multiply(const Product& product, const Algorithm& algorithm,
                          const Stream& stream) {
    const float one = 1.0f;
    const float zero = 0.0f;
    return cublasLtMatmul(handle_, product.operation.get(), &one, product.w, product.w_layout.get(),
                          product.x, product.x_layout.get(), &zero, product.y,
                          product.y_layout.get(), product.y, product.y_layout.get(), &algorithm,
                          workspace_.get(), kMatmulWorkspaceBytes, stream.get());
  }

  // Whether an algorithm that was found for the class does for these rows too.
  bool suits(const Algorithm& algorithm, const Product& product) {
    cublasLtMatmulHeuristicResult_t result = {};
    const cublasStatus_t status = cublasLtMatmulAlgoCheck(
        handle_, product.operation.get(), product.w_layout.get(), product.x_layout.get(),
        product.y_layout.get(), product.y_layout.get(), &algorithm, &result);
    return status == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= kMatmulWorkspaceBytes;
  }

  cudaDataType_t activation_;
  DeviceMemory workspace_;
  cublasLtHandle_t handle_ = nullptr;
  std::map<MatmulKey, std::optional<Algorithm>> choices_;
  // A product that comes again asks the library nothing. While a graph is recorded that is a must,
  // since some versions cannot answer then; passes run once before. There are at most as many as a
  // step may have rows, for each of the model's dozen or so matrices.
  std::map<ExactShape, std::optional<Algorithm>> settled_;
};

Matmul::Matmul(DType activation) : library_(std::make_unique<Library>(activation)) {}

Matmul::~Matmul() = default;

bool Matmul::run(const Tensor& x, const Tensor& w, const void* bias, const Tensor& y,
                 const Stream& stream) {
  const auto step = [](const Tensor& tensor) {
    return tensor.row_stride * static_cast<int64_t>(dtype_size(tensor.dtype));
  };
  const auto address = [](const Tensor& tensor) {
    return reinterpret_cast<uintptr_t>(tensor.data);
  };
  const MatmulShape shape = {
      x.rows, x.cols, w.rows, x.row_stride, y.row_stride, y.dtype, bias != nullptr,
      // No preference promises how a bias is aligned, but algorithms depend on it.
      common_alignment({address(x), address(w), address(y), reinterpret_cast<uintptr_t>(bias)},
                       {step(x), step(w), step(y)})};
  return library_->run(shape, x, w, bias, y, stream);
}

}  // namespace cogserve::cuda
