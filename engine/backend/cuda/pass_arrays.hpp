// The host arrays of the pass that is running, and where they are on the device.
//
// They are packed into one parcel, which always lies at the same address of the device, in an order
// that keeps each array in place as long as the number of rows stays the same.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/backend/backend.hpp"
#include "engine/backend/cuda/attention_arrays.hpp"
#include "engine/backend/cuda/staging.hpp"

namespace cogserve::cuda {

class PassArrays {
 public:
  // Packs the arrays; `device` is where the parcel will be. They count until end().
  void begin(const PassInput& input, size_t scratch_bytes, const std::byte* device, Parcel* parcel);
  void end();

  // The device's copy of an array that lies within one of the pass, null if there is none.
  template <typename T>
  const T* find(std::span<const T> array) const {
    return reinterpret_cast<const T*>(find_bytes(std::as_bytes(array)));
  }

  // The pass's attention if `runs` and `block_tables` are those of the pass, and the kernels those
  // it was planned for; else null.
  const AttentionArrays* find_attention(std::span<const AttentionRun> runs,
                                        std::span<const int32_t> block_tables,
                                        bool on_tensor_cores) const;
  const std::byte* device() const { return device_; }
  // Whether a recurring pass can be recorded and repeated with these arrays.
  bool recurs() const { return attention_.recurs(); }

 private:
  struct Copy {
    std::span<const std::byte> host;
    size_t at = 0;  // in the parcel
  };

  template <typename T>
  void add(std::span<const T> array, Parcel* parcel) {
    copies_.push_back({std::as_bytes(array), parcel->add(array)});
  }
  const std::byte* find_bytes(std::span<const std::byte> array) const;

  std::vector<Copy> copies_;  // empty outside a pass
  const std::byte* device_ = nullptr;
  std::span<const std::byte> runs_;
  std::span<const std::byte> block_tables_;
  AttentionArrays attention_;
};

}  // namespace cogserve::cuda
