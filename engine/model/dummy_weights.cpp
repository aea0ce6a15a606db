#include "engine/model/dummy_weights.hpp"

#include <algorithm>
#include <cmath>
#include <new>
#include <string_view>
#include <thread>
#include <vector>

#include "engine/base/check.hpp"
#include "engine/base/error.hpp"

namespace cogserve {
namespace {

// SplitMix64's finaliser: a counter in, 64 random bits out.
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// FNV-1a, so that a tensor's content does not depend on which others are loaded.
uint64_t hash_name(std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

// Uniform values in mean +- spread.
struct Range {
  float mean;
  float spread;
};

Range range_of(const StoredTensor& tensor) {
  const std::string_view name = tensor.name;
  if (name.ends_with("norm.weight") || name.ends_with("norm1.weight")) return {1.0f, 0.1f};
  if (tensor.shape.size() == 1) return {0.0f, 0.02f};
  // A standard deviation of 1 / sqrt(fan in) keeps a row's scale from layer to layer.
  int64_t fan_in = 1;
  for (size_t i = 1; i < tensor.shape.size(); ++i) fan_in *= tensor.shape[i];
  return {0.0f, std::sqrt(3.0f / static_cast<float>(fan_in))};
}

// A value depends on its index alone: four come from each 64 random bits.
template <typename T, typename Convert>
void fill_part(T* out, int64_t begin, int64_t end, uint64_t key, Range range, Convert convert) {
  const float scale = range.spread / 32768.0f;
  for (; begin < end; begin += 4) {
    uint64_t bits = mix(key + static_cast<uint64_t>(begin / 4) * 0x9e3779b97f4a7c15u);
    for (int64_t i = begin; i < std::min(begin + 4, end); ++i, bits >>= 16) {
      const auto draw = static_cast<float>(static_cast<int16_t>(bits & 0xffff));
      out[i] = convert(range.mean + scale * draw);
    }
  }
}

// By as many threads as there are cores: the published shape has 19 billion values.
template <typename T, typename Convert>
void fill(T* out, int64_t count, uint64_t key, Range range, Convert convert) {
  constexpr int64_t kLeastPart = int64_t{1} << 20;  // a multiple of 4, as all parts are
  const int64_t cores = std::max(1u, std::thread::hardware_concurrency());
  const int64_t part = std::max(kLeastPart, (count / cores + 3) / 4 * 4);
  std::vector<std::thread> helpers;
  for (int64_t begin = part; begin < count; begin += part) {
    helpers.emplace_back(fill_part<T, Convert>, out, begin, std::min(begin + part, count), key,
                         range, convert);
  }
  fill_part(out, 0, std::min(part, count), key, range, convert);
  for (std::thread& helper : helpers) helper.join();
}

}  // namespace

DType dummy_dtype(const std::string& torch_dtype) {
  if (torch_dtype == "float32") return DType::kF32;
  if (torch_dtype == "float16") return DType::kF16;
  return DType::kBF16;
}

absl::StatusOr<StoredTensor> DummyWeights::require(const std::string& name,
                                                   const std::vector<int64_t>& shape) {
  return StoredTensor{name, dtype_, shape, required_++};
}

absl::StatusOr<HostTensor> DummyWeights::read(const StoredTensor& tensor) {
  HostTensor host{nullptr, dtype_, tensor.shape};
  const int64_t count = host.elements();
  const size_t bytes = static_cast<size_t>(count) * dtype_size(dtype_);
  if (bytes > capacity_) {
    content_.reset(new (std::nothrow) std::byte[bytes]);
    capacity_ = content_ ? bytes : 0;
  }
  if (bytes > capacity_) {
    return make_error(
        absl::StatusCode::kResourceExhausted, "MEMORY", tensor.name,
        "tensor '" + tensor.name + "': cannot allocate " + std::to_string(bytes) + " bytes");
  }
  void* const data = content_.get();
  const uint64_t key = mix(seed_ ^ hash_name(tensor.name));
  const Range range = range_of(tensor);
  switch (dtype_) {
    case DType::kBF16:
      fill(static_cast<BFloat16*>(data), count, key, range, to_bfloat16);
      break;
    case DType::kF16:
      fill(static_cast<Float16*>(data), count, key, range, to_float16);
      break;
    case DType::kF32:
      fill(static_cast<float*>(data), count, key, range, [](float value) { return value; });
      break;
    case DType::kI32:
      check(false, "weights are never integers");
  }
  host.data = content_.get();
  return host;
}

}  // namespace cogserve
