// Stands in for cuBLASLt in the emulator: the same contract, by plain loops. It has no algorithm
// for odd lengths, so that what the backend does then is tested too.
#include "engine/backend/cuda/matmul.hpp"

#include "engine/backend/cuda/dispatch.hpp"
#include "engine/backend/cuda/numeric.cuh"

namespace cogserve::cuda {

class Matmul::Library {};

Matmul::Matmul(DType) {}

Matmul::~Matmul() = default;

namespace {

void multiply(const Tensor& x, const Tensor& w, const void* bias, const Tensor& y) {
  with_activation(x.dtype, [&](auto element) {
    using T = typename decltype(element)::Type;
    with_float(y.dtype, [&](auto out) {
      using Out = typename decltype(out)::Type;
      for (int64_t r = 0; r < x.rows; ++r) {
        for (int64_t o = 0; o < w.rows; ++o) {
          float sum = 0.0f;
          for (int64_t k = 0; k < x.cols; ++k) {
            sum += widen(x.row<T>(r)[k]) * widen(w.row<T>(o)[k]);
          }
          if (bias != nullptr) sum += widen(static_cast<const Out*>(bias)[o]);
          y.row<Out>(r)[o] = narrow<Out>(sum);
        }
      }
    });
  });
}

}  // namespace

bool Matmul::run(const Tensor& x, const Tensor& w, const void* bias, const Tensor& y,
                 const Stream& stream) {
  if (x.cols % 2 != 0) return false;
  stream.get()->give([=] { multiply(x, w, bias, y); });
  return true;
}

}  // namespace cogserve::cuda
