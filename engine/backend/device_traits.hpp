// What a memory plan needs to know of a kind of device, known without one: a machine without a GPU
// can plan for one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/base/dtype.hpp"
#include "engine/base/host_weight.hpp"

namespace cogserve {

struct DeviceTraits {
  DType activation = DType::kF32;
  DType kv = DType::kF32;
  // What the driver and its libraries take beside what is asked for, about; and how much of it only
  // after the backend was made, for code that is loaded on first use and passes that are recorded.
  int64_t context_bytes = 0;
  int64_t late_context_bytes = 0;
  // What the backend allocates for itself: when it is made, and for each vocabulary entry when it
  // first samples.
  int64_t own_bytes = 0;
  int64_t own_bytes_per_token_id = 0;
  // An allocation takes a multiple of so many bytes.
  int64_t granularity = 1;
  int64_t allocated(int64_t bytes) const {
    return (bytes + granularity - 1) / granularity * granularity;
  }
  // Where a row of a quantised weight has several groups, they are multiples of so many inputs.
  int64_t group_multiple = 1;
  // Bytes that load_weight takes for a matrix, and load_vector for n values, of those that
  // reserve_weights is given. The arrays of `form` are not looked at.
  size_t (*weight_bytes)(const HostWeight& form) = nullptr;
  size_t (*vector_bytes)(int64_t n) = nullptr;
  // Of the KV cache where nobody says; 0: all that is left.
  int64_t default_kv_bytes = 0;
};

// `device` as make_backend takes it, in this build or not. INVALID_ARGUMENT UNKNOWN_DEVICE.
absl::StatusOr<DeviceTraits> device_traits(std::string_view device);

}  // namespace cogserve
