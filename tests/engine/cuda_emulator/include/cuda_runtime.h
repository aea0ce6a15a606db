// CUDA's own names for the emulator: found before the toolkit's header when kernels are compiled
// for the CPU. Only what the backend uses. Device memory is host memory; see streams.hpp
// for when work is done.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "tests/engine/cuda_emulator/accesses.hpp"
#include "tests/engine/cuda_emulator/emulator.hpp"
#include "tests/engine/cuda_emulator/memory.hpp"
#include "tests/engine/cuda_emulator/streams.hpp"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

// Of the emulator itself: what it does to memory is no kernel's load or store, but is reported by
// note_access() where it stands for one.
#define COGSERVE_EMULATED __attribute__((no_sanitize("thread")))

// --- built-in types and variables
// ------------------------------------------------------------------

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
  operator cogserve::emulator::Index() const { return {x, y, z}; }
};

// Loaded and stored whole, as a GPU does; the CPU's compiler would report the parts one by one.
template <typename T>
struct alignas(16) EmulatedVector4 {
  T x, y, z, w;

  EmulatedVector4() = default;
  EmulatedVector4(T x_, T y_, T z_, T w_) : x(x_), y(y_), z(z_), w(w_) {}
  __attribute__((noinline)) COGSERVE_EMULATED EmulatedVector4(const EmulatedVector4& from)
      : x(from.x), y(from.y), z(from.z), w(from.w) {
    note(&from, cogserve::emulator::Access::kRead, __builtin_return_address(0));
  }
  __attribute__((noinline)) COGSERVE_EMULATED EmulatedVector4& operator=(
      const EmulatedVector4& from) {
    note(&from, cogserve::emulator::Access::kRead, __builtin_return_address(0));
    note(this, cogserve::emulator::Access::kWrite, __builtin_return_address(0));
    x = from.x, y = from.y, z = from.z, w = from.w;
    return *this;
  }

 private:
  static void note(const void* vector, cogserve::emulator::Access access, const void* code) {
    if (reinterpret_cast<uintptr_t>(vector) % 16 != 0) {
      cogserve::emulator::fail("a misaligned address");
    }
    cogserve::emulator::note_access(vector, 16, access, code);
  }
};
using uint4 = EmulatedVector4<unsigned>;
using float4 = EmulatedVector4<float>;

#define threadIdx (::cogserve::emulator::thread_index())
#define blockIdx (::cogserve::emulator::block_index())
#define blockDim (::cogserve::emulator::block_shape())
#define gridDim (::cogserve::emulator::grid_shape())

// --- device functions ----------------------------------------------------------------------------

inline void __syncthreads(int line = __builtin_LINE()) { cogserve::emulator::sync_block(line); }
inline void __syncwarp(unsigned = ~0u, int line = __builtin_LINE()) {
  cogserve::emulator::sync_warp("__syncwarp", line, true);
}
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask, int line = __builtin_LINE()) {
  return cogserve::emulator::take_from(cogserve::emulator::lane() ^ mask, value, "a shuffle", line);
}
template <typename T>
T __shfl_sync(unsigned, T value, int from, int line = __builtin_LINE()) {
  return cogserve::emulator::take_from(from % 32, value, "a shuffle", line);
}
template <typename T>
T __shfl_up_sync(unsigned, T value, unsigned delta, int line = __builtin_LINE()) {
  const int lane = cogserve::emulator::lane();
  const int from = lane < static_cast<int>(delta) ? lane : lane - static_cast<int>(delta);
  return cogserve::emulator::take_from(from, value, "a shuffle", line);
}
inline unsigned __ballot_sync(unsigned, bool vote, int line = __builtin_LINE()) {
  const auto votes = cogserve::emulator::exchange(vote, "a ballot", line);
  unsigned bits = 0;
  for (int i = 0; i < 32; ++i) bits |= static_cast<unsigned>(votes[i]) << i;
  return bits;
}

template <typename T>
COGSERVE_EMULATED T atomicAdd(T* address, T value) {
  static const char kPlace = 0;
  cogserve::emulator::note_access(address, sizeof(T), cogserve::emulator::Access::kAtomic, &kPlace);
  const T old = *address;
  *address = old + value;
  return old;
}
template <typename T>
COGSERVE_EMULATED T atomicExch(T* address, std::type_identity_t<T> value) {
  static const char kPlace = 0;
  cogserve::emulator::note_access(address, sizeof(T), cogserve::emulator::Access::kAtomic, &kPlace);
  const T old = *address;
  *address = value;
  return old;
}

inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
// Products and sums that are never fused: the emulated sources are compiled without contraction.
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline unsigned long long __float2ull_rz(float value) {
  return static_cast<unsigned long long>(value);
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(uint64_t{a} * b >> 32);
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
using std::max;
using std::min;

// --- runtime API ---------------------------------------------------------------------------------

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorInvalidResourceHandle = 400,
  cudaErrorNotReady = 600,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorStreamCaptureInvalidated = 901
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal };
struct CUstream_st : cogserve::emulator::Stream {};
struct CUevent_st {
  cogserve::emulator::Stream* stream = nullptr;
  uint64_t mark = 0;
  bool has_clock = false;
  bool is_captured = false;  // a point of a graph, not of the stream's work
};
struct CUgraph_st {
  std::vector<cogserve::emulator::Work> work;
};
struct CUgraphExec_st : CUgraph_st {};
using cudaStream_t = CUstream_st*;
using cudaEvent_t = CUevent_st*;
using cudaGraph_t = CUgraph_st*;
using cudaGraphExec_t = CUgraphExec_st*;
inline constexpr unsigned cudaEventDisableTiming = 2;
inline constexpr unsigned cudaStreamNonBlocking = 1;

struct cudaDeviceProp {
  char name[256] = "emulated device";
  size_t totalGlobalMem = cogserve::emulator::kDeviceBytes;
  int major = 9;
  int minor = 0;
  int multiProcessorCount = 2;
};

struct cudaFuncAttributes {
  int ptxVersion = 0;
  int binaryVersion = 0;
};

inline const char* cudaGetErrorName(cudaError_t) { return "cudaErrorEmulated"; }
inline const char* cudaGetErrorString(cudaError_t) { return "an emulated error"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  return *properties = cudaDeviceProp(), cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, const void*) {
  return cogserve::emulator::has_code() ? cudaSuccess : cudaErrorNoKernelImageForDevice;
}
inline cudaError_t cudaMalloc(void** memory, size_t bytes) {
  if (!cogserve::emulator::may_allocate()) return cudaErrorStreamCaptureUnsupported;
  *memory = cogserve::emulator::allocate_device(bytes);
  return *memory != nullptr ? cudaSuccess : cudaErrorMemoryAllocation;
}
inline cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *total = cogserve::emulator::kDeviceBytes;
  *free = cogserve::emulator::free_device_bytes();
  return cudaSuccess;
}
inline cudaError_t cudaMallocHost(void** memory, size_t bytes) {
  if (!cogserve::emulator::may_allocate()) return cudaErrorStreamCaptureUnsupported;
  return posix_memalign(memory, 256, std::max<size_t>(bytes, 1)) == 0 ? cudaSuccess
                                                                      : cudaErrorMemoryAllocation;
}
inline cudaError_t cudaFree(void* memory) {
  if (!cogserve::emulator::wait_for_all_streams()) return cudaErrorStreamCaptureUnsupported;
  return cogserve::emulator::free_device(memory), cudaSuccess;
}
inline cudaError_t cudaFreeHost(void* memory) {
  if (!cogserve::emulator::wait_for_all_streams()) return cudaErrorStreamCaptureUnsupported;
  return std::free(memory), cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream) {
  stream->give([=] {
    cogserve::emulator::note_written(memory, bytes);
    std::memset(memory, value, bytes);
  });
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                                   cudaStream_t stream) {
  cogserve::emulator::counts().uploads += kind == cudaMemcpyHostToDevice;
  stream->give([=] {
    cogserve::emulator::note_copied(to, from, bytes);
    std::memcpy(to, from, bytes);
  });
  return cudaSuccess;
}
inline cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                                     size_t width, size_t height, cudaMemcpyKind kind,
                                     cudaStream_t stream) {
  cogserve::emulator::counts().uploads += kind == cudaMemcpyHostToDevice;
  stream->give([=] {
    for (size_t row = 0; row < height; ++row) {
      char* const to_row = static_cast<char*>(to) + row * to_pitch;
      const char* const from_row = static_cast<const char*>(from) + row * from_pitch;
      cogserve::emulator::note_copied(to_row, from_row, width);
      std::memcpy(to_row, from_row, width);
    }
  });
  return cudaSuccess;
}
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  return *stream = new CUstream_st, cudaSuccess;
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) { return delete stream, cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  ++cogserve::emulator::counts().waits;
  if (stream->capturing()) {
    stream->break_capture();
    return cudaErrorStreamCaptureUnsupported;
  }
  return stream->run_until(stream->mark()), cudaSuccess;
}
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  return *event = new CUevent_st, cudaSuccess;
}
// Events with a clock. Of all that runs here only matrix products take time: see cublaslt.hpp.
inline cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = new CUevent_st;
  (*event)->has_clock = true;
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t begin, cudaEvent_t end);
inline cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete event, cudaSuccess; }
inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  event->stream = stream;
  event->mark = stream->mark();
  event->is_captured = stream->capturing();
  return cudaSuccess;
}
inline cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  ++cogserve::emulator::counts().waits;
  if (event->is_captured) {
    event->stream->break_capture();
    return cudaErrorStreamCaptureUnsupported;
  }
  if (event->stream != nullptr) event->stream->run_until(event->mark);
  return cudaSuccess;
}
inline cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  return stream->begin_capture(), cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  std::vector<cogserve::emulator::Work> work;
  *graph = nullptr;
  if (!stream->end_capture(&work)) return cudaErrorStreamCaptureInvalidated;
  return *graph = new CUgraph_st{std::move(work)}, cudaSuccess;
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph,
                                        unsigned long long) {
  return *exec = new CUgraphExec_st{*graph}, cudaSuccess;
}
inline cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) {
  return cogserve::emulator::may_upload() ? cudaSuccess : cudaErrorMemoryAllocation;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete graph, cudaSuccess; }
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) { return delete exec, cudaSuccess; }
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  ++cogserve::emulator::counts().graphs;
  for (const cogserve::emulator::Work& work : exec->work) stream->give(work);
  return cudaSuccess;
}
