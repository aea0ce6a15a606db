#include "engine/model/rope_table.hpp"

#include <cmath>
#include <utility>
#include <vector>

#include "engine/base/check.hpp"

namespace cogserve {
namespace {

float round_to_bf16(float value) { return to_float(to_bfloat16(value)); }

float keep_f32(float value) { return value; }

}  // namespace

RopeDtype resolve_rope_dtype(RopeDtype wanted, DType weights) {
  if (wanted != RopeDtype::kAuto) return wanted;
  return weights == DType::kBF16 ? RopeDtype::kBF16 : RopeDtype::kF32;
}

size_t rope_table_bytes(const ModelConfig& config) {
  return size_t{2} * config.max_positions * (config.head_dim() / 2) * sizeof(float);
}

absl::StatusOr<RopeStorage> make_rope_table(Backend* backend, const ModelConfig& config,
                                            RopeDtype dtype) {
  check(dtype != RopeDtype::kAuto, "the RoPE dtype is resolved");
  const auto round = dtype == RopeDtype::kBF16 ? round_to_bf16 : keep_f32;
  const int64_t positions = config.max_positions;
  const int64_t pairs = config.head_dim() / 2;

  std::vector<float> inverse_frequency(pairs);
  for (int64_t i = 0; i < pairs; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(config.head_dim());
    inverse_frequency[i] = round(1.0f / std::pow(config.rope_theta, exponent));
  }
  std::vector<float> cos(positions * pairs);
  std::vector<float> sin(positions * pairs);
  for (int64_t p = 0; p < positions; ++p) {
    const float position = round(static_cast<float>(p));
    for (int64_t i = 0; i < pairs; ++i) {
      const float angle = round(position * inverse_frequency[i]);
      cos[p * pairs + i] = round(std::cos(angle));
      sin[p * pairs + i] = round(std::sin(angle));
    }
  }

  absl::StatusOr<Buffer> storage = backend->allocate(rope_table_bytes(config));
  if (!storage.ok()) return storage.status();
  auto* const data = static_cast<std::byte*>(storage->data());
  RopeStorage rope{
      std::move(*storage),
      {Tensor::matrix(data, DType::kF32, positions, pairs),
       Tensor::matrix(data + cos.size() * sizeof(float), DType::kF32, positions, pairs)}};
  backend->upload(cos.data(), rope.table.cos);
  backend->upload(sin.data(), rope.table.sin);
  return rope;
}

}  // namespace cogserve
