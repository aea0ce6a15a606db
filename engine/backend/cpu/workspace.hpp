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

  // Memory is aligned to a cache line and of undefined content. Both growing calls are for the
  // calling thread, outside of parallel work, and throw std::bad_alloc if there is no memory.

  // Valid until the next call.
  float* shared(size_t floats) { return shared_.grow(floats); }

  // Gives each worker a block of that size; `of_worker` is valid until the next call of this.
  void prepare_workers(size_t floats) {
    for (Block& block : of_worker_) block.grow(floats);
  }
  float* of_worker(int worker) const { return of_worker_[worker].memory.get(); }

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
