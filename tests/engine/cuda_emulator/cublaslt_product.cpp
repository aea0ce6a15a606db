#include "tests/engine/cuda_emulator/cublaslt_product.hpp"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "engine/base/dtype.hpp"
#include "tests/engine/cuda_emulator/emulator.hpp"
#include "tests/engine/cuda_emulator/memory.hpp"

namespace cogserve::emulator {
namespace {

using Lanes = float __attribute__((vector_size(16)));
constexpr int64_t kLanes = 4;
// What is summed at a time: so many rows and columns of D.
constexpr int64_t kRows = 2 * kLanes;
constexpr int64_t kCols = 4;

int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

void check_readable(const void* address, size_t bytes) {
  if (!is_device_address(address)) throw Error("a product of the host's memory");
  check_written(address, bytes);
}

// Elements of `from`, `step` apart in `out`.
void widen(const void* from, cudaDataType_t type, int64_t count, int64_t step, float* out) {
  if (type == CUDA_R_32F) {
    const auto* const values = static_cast<const float*>(from);
    for (int64_t i = 0; i < count; ++i) out[i * step] = values[i];
  } else if (type == CUDA_R_16BF) {
    const auto* const values = static_cast<const BFloat16*>(from);
    for (int64_t i = 0; i < count; ++i) out[i * step] = to_float(values[i]);
  } else {
    const auto* const values = static_cast<const Float16*>(from);
    for (int64_t i = 0; i < count; ++i) out[i * step] = to_float(values[i]);
  }
}

void narrow(uint32_t block, const float* from, int64_t count, cudaDataType_t type, void* out) {
  note_product(block, out, count * library_type_bytes(type));
  if (type == CUDA_R_32F) {
    std::memcpy(out, from, count * sizeof(float));
  } else if (type == CUDA_R_16BF) {
    std::transform(from, from + count, static_cast<BFloat16*>(out), to_bfloat16);
  } else {
    std::transform(from, from + count, static_cast<Float16*>(out), to_float16);
  }
}

void* column(const LibraryMatrix& matrix, int64_t col) {
  return static_cast<std::byte*>(matrix.data) + col * matrix.ld * library_type_bytes(matrix.type);
}

void read(const LibraryMatrix& matrix, int64_t row_step, int64_t col_step, float* out) {
  for (int64_t col = 0; col < matrix.cols; ++col) {
    const void* const from = column(matrix, col);
    check_readable(from, matrix.rows * library_type_bytes(matrix.type));
    widen(from, matrix.type, matrix.rows, row_step, out + col * col_step);
  }
}

// op(A) by columns and op(B) by its own, in f32 and padded with zeros, and sums of their products.
class Sums {
 public:
  explicit Sums(const LibraryProduct& product)
      : n_(product.n),
        k_(product.k),
        stride_(round_up(product.m, kRows)),
        a_(k_ * stride_),
        b_(round_up(n_, kCols) * k_),
        sums_(round_up(n_, kCols) * stride_) {
    const bool a_turned = product.a_transposed, b_turned = product.b_transposed;
    read(product.a, a_turned ? stride_ : 1, a_turned ? 1 : stride_, a_.data());
    read(product.b, b_turned ? k_ : 1, b_turned ? 1 : k_, b_.data());
  }

  // D's column of what was summed last.
  const float* column(int64_t col) const { return &sums_[col * stride_]; }
  const std::vector<float>& all() const { return sums_; }

  // Of products begin, begin + step, ... below end, one after the other for each element of D.
  const std::vector<float>& of(int64_t begin, int64_t end, int64_t step) {
    for (int64_t col = 0; col < n_; col += kCols) {
      for (int64_t row = 0; row < stride_; row += kRows) add_up(row, col, begin, end, step);
    }
    return sums_;
  }

  void add(const std::vector<float>& others) {
    for (size_t i = 0; i < sums_.size(); ++i) sums_[i] += others[i];
  }
  void set(std::vector<float> values) { sums_ = std::move(values); }

 private:
  void add_up(int64_t row, int64_t col, int64_t begin, int64_t end, int64_t step) {
    Lanes sums[kCols][2] = {};
    for (int64_t k = begin; k < end; k += step) {
      Lanes a[2];
      std::memcpy(a, &a_[k * stride_ + row], sizeof a);
#pragma GCC unroll 4
      for (int64_t i = 0; i < kCols; ++i) {
        const float b = b_[(col + i) * k_ + k];
        sums[i][0] += a[0] * b;
        sums[i][1] += a[1] * b;
      }
    }
    for (int64_t i = 0; i < kCols; ++i) {
      std::memcpy(&sums_[(col + i) * stride_ + row], sums[i], sizeof sums[i]);
    }
  }

  int64_t n_;
  int64_t k_;
  int64_t stride_;
  std::vector<float> a_;
  std::vector<float> b_;
  std::vector<float> sums_;
};

void sum_tiles(int64_t k, Sums* sums) {
  constexpr int64_t kTile = 16;
  std::vector<float> total = sums->of(0, std::min(k, kTile), 1);
  for (int64_t begin = kTile; begin < k; begin += kTile) {
    sums->of(begin, std::min(k, begin + kTile), 1);
    sums->add(total);
    total = sums->all();
  }
}

void sum_pairs(int64_t k, Sums* sums) {
  const std::vector<float> even = sums->of(0, k, 2);
  sums->of(1, k, 2);
  sums->add(even);
}

// Parts go to the workspace, and are added up from there.
void sum_parts(uint32_t block, const LibraryProduct& product, Sums* sums) {
  const size_t row_bytes = product.m * library_type_bytes(product.part_type);
  const auto place = [&](int64_t part, int64_t col) {
    return static_cast<std::byte*>(product.workspace) + (part * product.n + col) * row_bytes;
  };
  for (int64_t part = 0; part < product.splits; ++part) {
    sums->of(product.k * part / product.splits, product.k * (part + 1) / product.splits, 1);
    for (int64_t col = 0; col < product.n; ++col) {
      narrow(block, sums->column(col), product.m, product.part_type, place(part, col));
    }
  }
  const int64_t stride = round_up(product.m, kRows);
  std::vector<float> values(sums->all().size());
  for (int64_t part = 0; part < product.splits; ++part) {
    for (int64_t col = 0; col < product.n; ++col) {
      widen(place(part, col), product.part_type, product.m, 1, &values[col * stride]);
    }
    if (part > 0) sums->add(values);
    if (part == 0) sums->set(values);
  }
}

void sum(uint32_t block, const LibraryProduct& product, Sums* sums) {
  switch (product.kernel) {
    case LibraryKernel::kTiles:
      return sum_tiles(product.k, sums);
    case LibraryKernel::kSplit:
      return sum_parts(block, product, sums);
    case LibraryKernel::kPairs:
      return sum_pairs(product.k, sums);
    case LibraryKernel::kInOrder:
      sums->of(0, product.k, 1);
  }
}

}  // namespace

size_t library_type_bytes(cudaDataType_t type) { return type == CUDA_R_32F ? 4 : 2; }

size_t workspace_bytes(const LibraryProduct& product) {
  if (product.splits == 1) return 0;
  return product.splits * product.n * product.m * library_type_bytes(product.part_type);
}

void multiply(const LibraryProduct& product) {
  const uint32_t block = count_block();
  Sums sums(product);
  sum(block, product, &sums);
  const int64_t m = product.m;
  std::vector<float> bias(m, 0.0f), added(m), values(m);
  if (product.bias != nullptr) {
    check_readable(product.bias, m * library_type_bytes(product.d.type));
    widen(product.bias, product.d.type, m, 1, bias.data());
  }
  for (int64_t col = 0; col < product.n; ++col) {
    const float* const column_sums = sums.column(col);
    for (int64_t row = 0; row < m; ++row) values[row] = product.alpha * column_sums[row];
    if (product.beta != 0.0f) {  // else C need not hold numbers
      check_readable(column(product.c, col), m * library_type_bytes(product.c.type));
      widen(column(product.c, col), product.c.type, m, 1, added.data());
      for (int64_t row = 0; row < m; ++row) values[row] += product.beta * added[row];
    }
    if (product.bias != nullptr) {
      for (int64_t row = 0; row < m; ++row) values[row] += bias[row];
    }
    narrow(block, values.data(), m, product.d.type, column(product.d, col));
  }
}

}  // namespace cogserve::emulator
