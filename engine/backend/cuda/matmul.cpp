#include "engine/backend/cuda/matmul.hpp"

#include <cublasLt.h>

#include <map>
#include <optional>
#include <string>

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

  // Row-major y = x W^T is column-major y^T = W x^T: W stored by rows is its own transpose by
  // columns.
  bool run(const MatmulShape& shape, const Tensor& x, const Tensor& w, const void* bias,
           const Tensor& y, const Stream& stream) {
    const cudaDataType_t y_type = library_type(shape.y_dtype);
    const Operation operation(bias, y_type);
    const Layout w_layout(activation_, shape.in, shape.out, shape.in);
    const Layout x_layout(activation_, shape.in, shape.rows, shape.x_stride);
    const Layout y_layout(y_type, shape.out, shape.rows, shape.y_stride);
    const auto [entry, is_new] = choices_.try_emplace(matmul_key(shape));
    if (is_new) entry->second = ask(shape, operation, w_layout, row_class(shape.rows));
    std::optional<Choice> choice = entry->second;
    if (!choice || !suits(*choice, operation, w_layout, x_layout, y_layout)) {
      choice = ask(shape, operation, w_layout, shape.rows);
    }
    if (!choice) return false;
    const float one = 1.0f;
    const float zero = 0.0f;
    check_cublas(
        cublasLtMatmul(handle_, operation.get(), &one, w.data, w_layout.get(), x.data,
                       x_layout.get(), &zero, y.data, y_layout.get(), y.data, y_layout.get(),
                       &choice->algo, workspace_.get(), kMatmulWorkspaceBytes, stream.get()),
        "cublasLtMatmul");
    return true;
  }

 private:
  struct Choice {
    cublasLtMatmulAlgo_t algo;
  };

  // The heuristic's first choice for `rows` rows.
  std::optional<Choice> ask(const MatmulShape& shape, const Operation& operation,
                            const Layout& w_layout, int64_t rows) {
    const Layout x_layout(activation_, shape.in, rows, shape.x_stride);
    const Layout y_layout(library_type(shape.y_dtype), shape.out, rows, shape.y_stride);
    const Preference preference(shape.alignment);
    cublasLtMatmulHeuristicResult_t result = {};
    int found = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        handle_, operation.get(), w_layout.get(), x_layout.get(), y_layout.get(), y_layout.get(),
        preference.get(), 1, &result, &found);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || (status == CUBLAS_STATUS_SUCCESS && found == 0)) {
      return std::nullopt;
    }
    check_cublas(status, "cublasLtMatmulAlgoGetHeuristic");
    return Choice{result.algo};
  }

  // Whether a choice that was made for the class does for these rows too.
  bool suits(const Choice& choice, const Operation& operation, const Layout& w_layout,
             const Layout& x_layout, const Layout& y_layout) {
    cublasLtMatmulHeuristicResult_t result = {};
    const cublasStatus_t status =
        cublasLtMatmulAlgoCheck(handle_, operation.get(), w_layout.get(), x_layout.get(),
                                y_layout.get(), y_layout.get(), &choice.algo, &result);
    return status == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= kMatmulWorkspaceBytes;
  }

  cudaDataType_t activation_;
  DeviceMemory workspace_;
  cublasLtHandle_t handle_ = nullptr;
  std::map<MatmulKey, std::optional<Choice>> choices_;
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
      x.rows,
      x.cols,
      w.rows,
      x.row_stride,
      y.row_stride,
      y.dtype,
      bias != nullptr,
      common_alignment(address(x), address(w), address(y), step(x), step(w), step(y))};
  return library_->run(shape, x, w, bias, y, stream);
}

}  // namespace cogserve::cuda
