// The way of host arrays to the device: a ring of pinned memory with a twin on the device, so that
// a steady state neither allocates nor waits.
//
// All arrays of one operation, or of a whole pass, travel together: pack, then send.
#pragma once

#include <cstddef>
#include <cstring>
#include <functional>
#include <span>
#include <vector>

#include "engine/backend/cuda/device_memory.hpp"
#include "engine/backend/cuda/ring.hpp"

namespace cogserve::cuda {

// Arrays side by side. Kept from call to call by whoever sends them.
class Parcel {
 public:
  void clear() { bytes_.clear(); }

  // Where the array will be, in bytes from the parcel's begin.
  template <typename T>
  size_t add(std::span<const T> array) {
    const size_t at = reserve(array.size_bytes());
    put(at, array);
    return at;
  }

  // The same in two calls, for arrays that say where others are.
  size_t reserve(size_t bytes) {
    const size_t at = (bytes_.size() + kAlignment - 1) / kAlignment * kAlignment;
    bytes_.resize(at + bytes);
    return at;
  }
  template <typename T>
  void put(size_t at, std::span<const T> array) {
    if (!array.empty()) std::memcpy(bytes_.data() + at, array.data(), array.size_bytes());
  }

  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  static constexpr size_t kAlignment = 16;

  std::vector<std::byte> bytes_;
};

class Staging {
 public:
  explicit Staging(const Stream* stream);

  // Starts the transfer and returns the parcel's place on the device. It holds until the work that
  // was given to the stream before the next send() or write() is done.
  const std::byte* send(const Parcel& parcel);

  template <typename T>
  static const T* at(const std::byte* parcel, size_t offset) {
    return reinterpret_cast<const T*>(parcel + offset);
  }

  // `bytes` of a large array to `to` on the device, piece by piece: fill(offset, count, out) writes
  // bytes [offset, offset + count) of it into pinned memory. Pieces are multiples of 256 bytes.
  using Fill = std::function<void(size_t, size_t, std::byte*)>;
  void write(void* to, size_t bytes, const Fill& fill);

  size_t max_bytes() const { return ring_.segment_bytes(); }

 private:
  // Pinned memory that the device has done with.
  std::byte* take(size_t bytes);

  const Stream* stream_;
  Ring ring_;
  PinnedMemory host_;
  DeviceMemory device_;
  std::vector<std::unique_ptr<Event>> marks_;  // one for each segment
};

}  // namespace cogserve::cuda
