#include "engine/backend/cpu/codebook.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "engine/backend/cpu/panel.hpp"

namespace cogserve::cpu {
namespace {

constexpr size_t kCodes = 16;
constexpr size_t kCodeBytes = kPanelWidth / 2;  // of one input

struct Layout {
  Layout(size_t out_features, size_t in_features, size_t group_size)
      : in(in_features), group(group_size), groups(ceil_div(in, group)) {
    panels = panel_count(out_features);
  }

  size_t scales_at(size_t panel) const {
    return (kCodes + panel * groups * kPanelWidth) * sizeof(float);
  }
  size_t codes_at(size_t panel) const { return scales_at(panels) + panel * in * kCodeBytes; }
  size_t bytes() const { return codes_at(panels); }

  size_t in;
  size_t group;
  size_t groups;
  size_t panels;
};

void pack_panel(const HostWeight& source, const Layout& layout, size_t panel, std::byte* storage) {
  auto* scales = reinterpret_cast<float*>(storage + layout.scales_at(panel));
  std::byte* codes = storage + layout.codes_at(panel);
  const size_t first = panel * kPanelWidth;
  const size_t columns = std::min<size_t>(kPanelWidth, source.out_features - first);
  for (size_t column = 0; column < columns; ++column) {
    const size_t row = first + column;
    for (size_t group = 0; group < layout.groups; ++group) {
      scales[group * kPanelWidth + column] = source.scales[row * layout.groups + group];
    }
    for (size_t k = 0; k < layout.in; ++k) {
      const unsigned code = nibble_code(source, static_cast<int64_t>(row * layout.in + k));
      codes[k * kCodeBytes + column % kCodeBytes] |=
          static_cast<std::byte>(code << (column < kCodeBytes ? 0 : 4));
    }
  }
}

// Elements are rounded to the weight's dtype.
template <typename Round>
void read_panel(const Layout& layout, const std::byte* storage, size_t panel, size_t k,
                size_t depth, float* values, Round round) {
  const auto* table = reinterpret_cast<const float*>(storage);
  const auto* scales = reinterpret_cast<const float*>(storage + layout.scales_at(panel));
  const std::byte* codes = storage + layout.codes_at(panel) + k * kCodeBytes;
  for (size_t i = k; i < k + depth; ++i, codes += kCodeBytes, values += kPanelWidth) {
    const float* scale = scales + i / layout.group * kPanelWidth;
    for (size_t j = 0; j < kCodeBytes; ++j) {
      const auto pair = std::to_integer<unsigned>(codes[j]);
      values[j] = round(table[pair & 15u] * scale[j]);
      values[kCodeBytes + j] = round(table[pair >> 4] * scale[kCodeBytes + j]);
    }
  }
}

}  // namespace

size_t codebook_weight_bytes(const HostWeight& form) {
  return Layout(form.out_features, form.in_features, form.group_size).bytes();
}

void pack_codebook_weight(const HostWeight& source, const Weight& weight, ThreadPool& pool) {
  const Layout layout(source.out_features, source.in_features, source.group_size);
  auto* storage = static_cast<std::byte*>(weight.storage.data());
  std::memcpy(storage, source.codebook.data(), sizeof source.codebook);
  pool.parallel_for(layout.panels, 1, [&](size_t begin, size_t end, int) {
    for (size_t panel = begin; panel < end; ++panel) pack_panel(source, layout, panel, storage);
  });
}

void read_codebook_panel(const Weight& weight, size_t panel, size_t k, size_t depth,
                         float* values) {
  const Layout layout(weight.out_features, weight.in_features, weight.group_size);
  const auto* storage = static_cast<const std::byte*>(weight.storage.data());
  switch (weight.dtype) {
    case DType::kBF16:
      return read_panel(layout, storage, panel, k, depth, values,
                        [](float value) { return to_float(to_bfloat16(value)); });
    case DType::kF16:
      return read_panel(layout, storage, panel, k, depth, values,
                        [](float value) { return to_float(to_float16(value)); });
    default:
      return read_panel(layout, storage, panel, k, depth, values,
                        [](float value) { return value; });
  }
}

}  // namespace cogserve::cpu
