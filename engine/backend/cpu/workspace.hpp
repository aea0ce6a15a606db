// Scratch memory of the kernels, kept from call to call.
//
// Owned by CpuBackend. It grows to the largest request and is given back with the backend.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

namespace cogserve::cpu {

class Workspace {
 public:
  explicit Workspace(int workers) : of_worker_(workers) {}

  // Both return memory aligned to a cache line, of undefined content, valid until the next call of
  // the same kind (and, for `of_worker`, the same worker). `shared` is for the calling thread
  // alone. They throw std::bad_alloc if there is no memory.
  float* shared(size_t floats) { return shared_.grow(floats); }
  float* of_worker(int worker, size_t floats) { return of_worker_[worker].grow(floats); }

 private:
  struct Free {
    void operator()(float* memory) const;
  };

  struct Block {
    std::unique_ptr<float, Free> memory;
    size_t floats = 0;

    float* grow(size_t wanted);
  };

  Block shared_;
  std::vector<Block> of_worker_;
};

}  // namespace cogserve::cpu
