#include "tests/engine/cuda_emulator/cublaslt_clock.hpp"

#include <cublasLt.h>

#include <deque>
#include <memory>

namespace cogserve::emulator {
namespace {

// A product that was given to a stream.
struct Timed {
  const Stream* stream;
  uint64_t position;
  float ms;
  std::shared_ptr<bool> done;
};
constexpr size_t kMostTimed = 256;

std::deque<Timed>& timed() {
  static std::deque<Timed> products;
  return products;
}

float time_of(const LibraryProduct& product) {
  const float chosen = library_behaviour().ms[static_cast<int>(product.kernel)];
  if (chosen != 0.0f) return chosen;
  // Of the shape alone, so that a choice is made again the same way.
  const int64_t shape = product.m / 8 + product.n / 8 + product.k / 8;
  return 1.0f + static_cast<float>((shape + static_cast<int>(product.kernel)) % kLibraryKernels);
}

}  // namespace

void give(const LibraryProduct& product, Stream* stream) {
  LibraryCounts& counts = library_counts();
  ++counts.products;
  ++counts.products_by[static_cast<int>(product.kernel)];
  if (stream->capturing()) {
    ++counts.captured;
    stream->give([product] { multiply(product); });
    return;
  }
  const auto done = std::make_shared<bool>(false);
  // Of an earlier stream that was where this one is.
  std::erase_if(timed(), [&](const Timed& earlier) {
    return earlier.stream == stream && earlier.position >= stream->mark();
  });
  timed().push_back({stream, stream->mark(), time_of(product), done});
  if (timed().size() > kMostTimed) timed().pop_front();
  stream->give([product, done] {
    multiply(product);
    *done = true;
  });
}

LibraryCounts LibraryCounts::since(const LibraryCounts& earlier) const {
  LibraryCounts more = {heuristics - earlier.heuristics, products - earlier.products,
                        captured - earlier.captured, refused - earlier.refused};
  for (size_t i = 0; i < products_by.size(); ++i) {
    more.products_by[i] = products_by[i] - earlier.products_by[i];
  }
  return more;
}

LibraryCounts& library_counts() {
  static LibraryCounts counts;
  return counts;
}

LibraryBehaviour& library_behaviour() {
  static LibraryBehaviour behaviour;
  return behaviour;
}

}  // namespace cogserve::emulator

using namespace cogserve::emulator;

cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t begin, cudaEvent_t end) {
  for (const cudaEvent_t event : {begin, end}) {
    if (event == nullptr || event->stream == nullptr || !event->has_clock || event->is_captured) {
      return cudaErrorInvalidResourceHandle;
    }
  }
  *ms = 0.0f;
  for (const Timed& product : timed()) {
    if (product.stream != end->stream) continue;
    if (product.position < begin->mark || product.position >= end->mark) continue;
    if (!*product.done) return cudaErrorNotReady;
    *ms += product.ms;
  }
  return cudaSuccess;
}
