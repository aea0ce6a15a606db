// A quantised weight of random codes that owns its arrays, for tests of kernels.
#pragma once

#include <random>
#include <vector>

#include "engine/base/host_weight.hpp"

namespace cogserve::testing {

struct WeightKind {
  WeightFormat format;
  int64_t group_size;
  bool has_zeros = false;
  DType dtype = DType::kF32;
  bool half_scales = false;  // that f16 holds
};

class RandomWeight {
 public:
  // `in` is even for the 4-bit formats. Scales are positive and negative, some of them zero.
  RandomWeight(const WeightKind& kind, int64_t out, int64_t in, uint32_t seed) {
    std::mt19937 generator(seed);
    weight_.format = kind.format;
    weight_.out_features = out;
    weight_.in_features = in;
    weight_.group_size = kind.group_size;
    weight_.dtype = kind.dtype;
    const bool int8 = kind.format == WeightFormat::kInt8;
    codes_.resize(out * in / (int8 ? 1 : 2));
    std::uniform_int_distribution<int> code(int8 ? -127 : 0, int8 ? 127 : 255);
    for (std::byte& byte : codes_) byte = static_cast<std::byte>(code(generator));
    scales_.resize(out * weight_.groups());
    std::normal_distribution<float> normal;
    for (float& scale : scales_) scale = generator() % 17 == 0 ? 0.0f : 0.01f * normal(generator);
    if (kind.half_scales) {
      for (float& scale : scales_) scale = to_float(to_float16(scale));
      weight_.scale_dtype = DType::kF16;
    }
    if (kind.has_zeros) {
      zeros_.resize(scales_.size());
      for (uint8_t& zero : zeros_) zero = static_cast<uint8_t>(generator() % 17);
      weight_.has_zeros = true;
      weight_.zeros = zeros_.data();
    }
    for (float& value : weight_.codebook) value = normal(generator);
    weight_.codes = codes_.data();
    weight_.scales = scales_.data();
  }
  RandomWeight(const RandomWeight&) = delete;
  RandomWeight& operator=(const RandomWeight&) = delete;

  const HostWeight& host() const { return weight_; }
  size_t code_bytes() const { return codes_.size(); }

 private:
  HostWeight weight_;
  std::vector<std::byte> codes_;
  std::vector<float> scales_;
  std::vector<uint8_t> zeros_;
};

}  // namespace cogserve::testing
