// Owners of the CUDA runtime's things: device memory, pinned host memory, streams and events.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <memory>

namespace cogserve::cuda {

struct FreeDevice {
  void operator()(void* memory) const { cudaFree(memory); }
};
struct FreePinned {
  void operator()(void* memory) const { cudaFreeHost(memory); }
};

using DeviceMemory = std::unique_ptr<void, FreeDevice>;
using PinnedMemory = std::unique_ptr<void, FreePinned>;

// Throw CudaError if there is none.
DeviceMemory allocate_device(size_t bytes);
PinnedMemory allocate_pinned(size_t bytes);

// A stream that does not wait for the default stream. Work runs in the order in which it is given.
class Stream {
 public:
  Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream();

  cudaStream_t get() const { return stream_; }
  void synchronize() const;

 private:
  cudaStream_t stream_ = nullptr;
};

// A point in a stream's work.
class Event {
 public:
  Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event();

  void record(const Stream& stream);
  // Until the work before the last record() is done.
  void wait() const;

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace cogserve::cuda
