// Scratch memory of the kernels, kept from call to call.
//
// Owned by CpuBackend. It grows to the largest request and is given back with the backend.
#pragma once

#include <cstddef>
#include <new>
#include <vector>

#include "hwy/aligned_allocator.h"

namespace cogserve::cpu {

class Workspace {
 public:
  explicit Workspace(int workers) : of_worker_(workers) {}

  // Both return aligned memory of undefined content, valid until the next call of the same kind
  // (and, for `of_worker`, the same worker). `shared` is for the calling thread alone.
  float* shared(size_t floats) { return shared_.grow(floats); }
  float* of_worker(int worker, size_t floats) { return of_worker_[worker].grow(floats); }

 private:
  struct Block {
    hwy::AlignedFreeUniquePtr<float[]> data;
    size_t floats = 0;

    float* grow(size_t wanted) {
      if (wanted > floats) {
        data.reset();
        floats = 0;
        data = hwy::AllocateAligned<float>(wanted);
        if (data == nullptr) throw std::bad_alloc();
        floats = wanted;
      }
      return data.get();
    }
  };

  Block shared_;
  std::vector<Block> of_worker_;
};

}  // namespace cogserve::cpu
