#include "engine/model/quantize.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>
#include <string>
#include <thread>

#include "engine/base/check.hpp"
#include "engine/base/error.hpp"

namespace cogserve {
namespace {

// Shares of the largest element that may be the end of the scale; the first is plain rounding.
constexpr float kClips[] = {1.0f, 0.96f, 0.92f, 0.88f, 0.84f, 0.80f, 0.75f, 0.70f};
// Eight floats that compilers keep in vectors, whatever their width.
using Lanes [[gnu::vector_size(32)]] = float;
constexpr int kLanes = 8;
constexpr int64_t kNone = std::numeric_limits<int64_t>::max();

// Adding and subtracting it rounds what is far below 2^22 to the nearest whole number, ties to
// even.
constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23

float round_even(float value) { return (value + kRounder) - kRounder; }

// `body(row, values)` for all rows, each once; `values` is scratch of `width` floats.
template <typename Body>
void for_each_row(int64_t rows, int64_t width, int threads, const Body& body) {
  constexpr int64_t kPiece = 16;
  const int64_t cores = std::max(1u, std::thread::hardware_concurrency());
  const int64_t workers =
      std::min<int64_t>(threads > 0 ? threads : cores, (rows + kPiece - 1) / kPiece);
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    std::vector<float> values(width);
    for (int64_t begin = next.fetch_add(kPiece); begin < rows; begin = next.fetch_add(kPiece)) {
      for (int64_t row = begin; row < std::min(begin + kPiece, rows); ++row) {
        body(row, values.data());
      }
    }
  };
  std::vector<std::jthread> others;
  for (int64_t worker = 1; worker < workers; ++worker) others.emplace_back(work);
  work();
}

// Row `row` of a matrix with `count` columns.
void read_row(const HostTensor& tensor, int64_t row, int64_t count, float* values) {
  const std::byte* from =
      tensor.data + row * count * static_cast<int64_t>(dtype_size(tensor.dtype));
  if (tensor.dtype == DType::kF32) {
    std::memcpy(values, from, count * sizeof(float));
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    uint16_t bits;
    std::memcpy(&bits, from + i * sizeof bits, sizeof bits);
    values[i] = tensor.dtype == DType::kBF16 ? to_float(BFloat16{bits}) : to_float(Float16{bits});
  }
}

// NaN and infinity are above every number.
float largest_magnitude(const float* values, int64_t count) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    largest = std::max(largest, std::bit_cast<uint32_t>(values[i]) & 0x7fffffffu);
  }
  return std::bit_cast<float>(largest);
}

// The reciprocal that codes are found with; 0, so that all codes are zero, where there is none.
float inverse_of(float scale) {
  const float inverse = 1.0f / scale;
  return std::isfinite(inverse) ? inverse : 0.0f;
}

float int4_level(float value, float inverse) {
  return std::clamp(round_even(value * inverse), -8.0f, 7.0f);
}

// Of kInt4GroupSize values: int4_level for eight at a time.
float int4_error(const float* values, float scale) {
  const float inverse = inverse_of(scale);
  Lanes sums = {};
  for (int64_t i = 0; i < kInt4GroupSize; i += kLanes) {
    Lanes value;
    std::memcpy(&value, values + i, sizeof value);
    Lanes level = (value * inverse + kRounder) - kRounder;
    level = level < -8.0f ? Lanes{} - 8.0f : level;
    level = level > 7.0f ? Lanes{} + 7.0f : level;
    const Lanes error = value - level * scale;
    sums += error * error;
  }
  float sum = 0.0f;
  for (int lane = 0; lane < kLanes; ++lane) sum += sums[lane];
  return sum;
}

// The scales that a group of kInt4GroupSize finite values may get, the first of equals first.
std::array<float, 2 * std::size(kClips)> int4_candidates(const float* values) {
  const float largest = largest_magnitude(values, kInt4GroupSize);
  const bool negative = *std::find_if(values, values + kInt4GroupSize, [&](float value) {
    return std::fabs(value) == largest;
  }) < 0.0f;
  std::array<float, 2 * std::size(kClips)> candidates;
  size_t count = 0;
  for (const float clip : kClips) {
    const float to_seven = largest * clip / 7.0f;
    const float to_eight = largest * clip / (negative ? 8.0f : -8.0f);
    for (const float scale : {to_seven, to_eight}) {
      candidates[count++] = to_float(to_float16(scale));
    }
  }
  return candidates;
}

float int4_scale(const float* values) {
  float best = 0.0f;
  float least = std::numeric_limits<float>::infinity();
  for (const float scale : int4_candidates(values)) {
    const float error = int4_error(values, scale);
    if (error >= least) continue;
    least = error;
    best = scale;
  }
  return best;
}

float int8_scale(const float* values, int64_t count) {
  return largest_magnitude(values, count) / 127.0f;
}

// Of values that share a scale; for int4 an even number of them.
void fill_codes(WeightFormat format, const float* values, int64_t count, float scale,
                std::byte* codes) {
  const float inverse = inverse_of(scale);
  if (format == WeightFormat::kInt8) {
    for (int64_t i = 0; i < count; ++i) {
      const float level = std::clamp(round_even(values[i] * inverse), -127.0f, 127.0f);
      codes[i] = static_cast<std::byte>(static_cast<int>(level));
    }
    return;
  }
  for (int64_t i = 0; i < count; i += 2) {
    const int low = static_cast<int>(int4_level(values[i], inverse)) + 8;
    const int high = static_cast<int>(int4_level(values[i + 1], inverse)) + 8;
    codes[i / 2] = static_cast<std::byte>(high << 4 | low);
  }
}

// Of an element. f16 ends at 65504, and the largest group's scale must not.
float magnitude_limit(WeightFormat format) {
  return format == WeightFormat::kInt4 ? 65504.0f * 7.0f : std::numeric_limits<float>::max();
}

int64_t whole_groups(int64_t in) {
  return (in + kInt4GroupSize - 1) / kInt4GroupSize * kInt4GroupSize;
}

// As read_row, with zeros after it: the last group may be shorter, and zeros cost no error.
void read_padded_row(const HostTensor& tensor, int64_t row, int64_t in, float* values) {
  read_row(tensor, row, in, values);
  std::fill(values + in, values + whole_groups(in), 0.0f);
}

bool same_bits(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b);
}

bool is_int4_scale(const float* values, float scale) {
  // Of groups that are all zero both zeros are candidates, with the same codes.
  if (scale == 0.0f) return same_bits(scale, int4_scale(values));
  const auto candidates = int4_candidates(values);
  return std::find(candidates.begin(), candidates.end(), scale) != candidates.end();
}

// Whether `values`, a padded row of finite numbers, can have become row `row` of `stored`.
bool is_quantized_row(const HostWeight& stored, int64_t row, const float* values) {
  const bool int4 = stored.format == WeightFormat::kInt4;
  const int64_t in = stored.in_features;
  const int64_t per_byte = int4 ? 2 : 1;
  const float* scales = stored.scales + row * stored.groups();
  if (!int4 && !same_bits(scales[0], int8_scale(values, in))) return false;
  for (int64_t begin = 0; begin < in; begin += kInt4GroupSize) {
    const float scale = scales[begin / stored.group_size];
    if (int4 && !is_int4_scale(values + begin, scale)) return false;
    const int64_t count = std::min(kInt4GroupSize, in - begin);
    std::array<std::byte, kInt4GroupSize> codes;
    fill_codes(stored.format, values + begin, count, scale, codes.data());
    const std::byte* const found = stored.codes + (row * in + begin) / per_byte;
    if (std::memcmp(found, codes.data(), count / per_byte) != 0) return false;
  }
  return true;
}

}  // namespace

QuantizedMatrix::QuantizedMatrix(WeightFormat format, int64_t out_features, int64_t in_features)
    : form_(weight_form(format, DType::kF32, out_features, in_features)),
      codes_(out_features * in_features / (format == WeightFormat::kInt4 ? 2 : 1)),
      scales_(out_features * form_.groups()) {}

HostWeight QuantizedMatrix::weight() const {
  HostWeight weight = form_;
  weight.codes = codes_.data();
  weight.scales = scales_.data();
  return weight;
}

void QuantizedMatrix::quantize_row(int64_t row, const float* values) {
  const int64_t in = form_.in_features;
  const bool int4 = form_.format == WeightFormat::kInt4;
  std::byte* codes = codes_.data() + row * in / (int4 ? 2 : 1);
  float* scales = scales_.data() + row * form_.groups();
  if (!int4) {
    scales[0] = int8_scale(values, in);
    return fill_codes(form_.format, values, in, scales[0], codes);
  }
  for (int64_t begin = 0; begin < in; begin += kInt4GroupSize, ++scales) {
    *scales = int4_scale(values + begin);
    fill_codes(form_.format, values + begin, std::min(kInt4GroupSize, in - begin), *scales,
               codes + begin / 2);
  }
}

absl::StatusOr<QuantizedMatrix> QuantizedMatrix::quantize(const HostTensor& tensor,
                                                          std::string_view name,
                                                          WeightFormat format, int threads) {
  check(format == WeightFormat::kInt4 || format == WeightFormat::kInt8, "a format to quantise to");
  const HostWeight dense = dense_weight(tensor);
  const int64_t in = dense.in_features;
  const std::string prefix = "tensor '" + std::string(name) + "': ";
  const bool int4 = format == WeightFormat::kInt4;
  if (int4 && in % 2 != 0) {
    return invalid_argument(
        "WEIGHT_FORMAT", name,
        prefix + "int4 wants an even number of inputs, got " + std::to_string(in));
  }
  QuantizedMatrix matrix(format, dense.out_features, in);
  const float limit = magnitude_limit(format);
  std::atomic<int64_t> bad_row{kNone};
  for_each_row(dense.out_features, whole_groups(in), threads, [&](int64_t row, float* values) {
    read_padded_row(tensor, row, in, values);
    if (largest_magnitude(values, in) <= limit) return matrix.quantize_row(row, values);
    int64_t before = bad_row.load();
    while (row < before && !bad_row.compare_exchange_weak(before, row)) {
    }
  });
  const int64_t row = bad_row.load();
  if (row == kNone) return matrix;
  std::vector<float> values(in);
  read_row(tensor, row, in, values.data());
  const auto bad = std::find_if(values.begin(), values.end(),
                                [&](float value) { return !(std::fabs(value) <= limit); });
  const std::string where =
      "element [" + std::to_string(row) + ", " + std::to_string(bad - values.begin()) + "]: ";
  if (!std::isfinite(*bad)) {
    return invalid_argument("WEIGHT_NOT_FINITE", name,
                            prefix + where + "expected a number, got " + std::to_string(*bad));
  }
  return invalid_argument("WEIGHT_RANGE", name,
                          prefix + where + "expected at most " + std::to_string(limit) +
                              " for int4, got " + std::to_string(*bad));
}

HostWeight weight_form(WeightFormat format, DType dtype, int64_t out_features,
                       int64_t in_features) {
  HostWeight form;
  form.format = format;
  form.out_features = out_features;
  form.in_features = in_features;
  form.dtype = format == WeightFormat::kDense ? dtype : DType::kF32;
  form.group_size = format == WeightFormat::kInt4 ? kInt4GroupSize : in_features;
  form.scale_dtype = format == WeightFormat::kInt4 ? DType::kF16 : DType::kF32;
  return form;
}

bool is_quantized_from(const HostTensor& dense, const HostWeight& stored, int threads) {
  const int64_t in = stored.in_features;
  const float limit = magnitude_limit(stored.format);
  std::atomic<bool> same{true};
  for_each_row(stored.out_features, whole_groups(in), threads, [&](int64_t row, float* values) {
    if (!same) return;
    read_padded_row(dense, row, in, values);
    if (!(largest_magnitude(values, in) <= limit) || !is_quantized_row(stored, row, values)) {
      same = false;
    }
  });
  return same;
}

double SquaredError::relative() const { return total > 0.0 ? std::sqrt(error / total) : 0.0; }

SquaredError squared_error(const HostTensor& dense, const HostWeight& quantized, int threads) {
  const int64_t in = quantized.in_features;
  std::vector<SquaredError> rows(quantized.out_features);
  for_each_row(quantized.out_features, in, threads, [&](int64_t row, float* values) {
    read_row(dense, row, in, values);
    for (int64_t i = 0; i < in; ++i) {
      const double error = double{values[i]} - double{weight_value(quantized, row, i)};
      rows[row].error += error * error;
      rows[row].total += double{values[i]} * values[i];
    }
  });
  SquaredError sum;
  for (const SquaredError& row : rows) {
    sum.error += row.error;
    sum.total += row.total;
  }
  return sum;
}

}  // namespace cogserve
