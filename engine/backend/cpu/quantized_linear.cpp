#include "engine/backend/cpu/quantized_linear.hpp"

#define HWY_WANT_AVX3_DL
#include "engine/backend/cpu/simd_targets.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/backend/cpu/quantized_linear.cpp"
#include "hwy/foreach_target.h"  // compiles this file once for each target
// (and these after it)
#include "engine/backend/cpu/quantized_kernel-inl.hpp"
#include "engine/backend/cpu/quantized_rows-inl.hpp"

#ifndef COGSERVE_CPU_QUANTIZED_LINEAR_ONCE
#define COGSERVE_CPU_QUANTIZED_LINEAR_ONCE
namespace cogserve::cpu {

// Rows and panels of one task, at most.
inline constexpr size_t kQuantizedRowsPerTask = 64;
inline constexpr size_t kQuantizedPanelsPerTask = 8;
// Blocks of a panel that several row tiles go through while they stay in the first cache, and while
// the next ones are on their way to it.
inline constexpr size_t kBlocksAtOnce = 4;
// How far before their use a lone tile asks for codes.
inline constexpr size_t kBytesAhead = 2048;
// Codes of x that are held at a time, in bytes.
inline constexpr size_t kQuantizedRowBytes = size_t{8} << 20;
// Multiply-adds below which waking another thread costs more than it saves.
inline constexpr size_t kSerialQuantizedWork = 1 << 18;

// One chunk of rows times the whole matrix. Arrays of x are tile after tile, laid out for
// BlockProduct.
struct QuantizedJob {
  QuantizedLayout layout;
  const std::byte* records;
  WeightFormat format;
  bool half_scales;
  bool has_zeros;
  Tensor x;
  int8_t* codes;
  float* scales;
  int32_t* sums;
  const float* bias;  // or null
  Tensor y;
  RowTiles tiles;
  size_t panels_per_task;
  size_t tiles_per_task;
  size_t tile_groups;
};

}  // namespace cogserve::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace cogserve::cpu::HWY_NAMESPACE {

// The rows of one tile, four inputs of each side by side.
void quantize_tile(const QuantizedJob& job, size_t tile) {
  const QuantizedLayout& layout = job.layout;
  const size_t rows = job.tiles.size(tile);
  const size_t first = job.tiles.begin(tile);
  int8_t* codes = job.codes + first * layout.blocks * layout.depth;
  size_t at = first * layout.blocks;
  for (size_t block = 0; block < layout.blocks; ++block) {
    for (size_t r = 0; r < rows; ++r, ++at) {
      HWY_ALIGN int8_t row[kBlockInputs];
      const float* x = job.x.row<float>(first + r) + layout.begin(block);
      const BlockSummary summary = quantize_block(x, layout.size(block), layout.depth, row);
      job.scales[at] = summary.scale;
      job.sums[at] = summary.sum;
      for (size_t quad = 0; quad < layout.depth / 4; ++quad) {
        std::memcpy(codes + (quad * rows + r) * 4, row + quad * 4, 4);
      }
    }
    codes += rows * layout.depth;
  }
}

void quantize_tiles(const QuantizedJob& job, size_t begin, size_t end) {
  for (size_t tile = begin; tile < end; ++tile) quantize_tile(job, tile);
}

// 1 to kRows rows.
template <class Codes, size_t kRows = kQuantizedTileRows>
void multiply_rows(size_t rows, const BlockProduct& product) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return multiply_rows<Codes, kRows - 1>(rows, product);
  }
  multiply_blocks<Codes, kRows>(product);
}

// One panel times some row tiles; results [row][16].
template <class Codes>
void multiply_panel(const QuantizedJob& job, size_t panel, size_t tile_begin, size_t tile_end,
                    float* results) {
  const QuantizedLayout& layout = job.layout;
  const size_t first = job.tiles.begin(tile_begin);
  std::fill_n(results, (job.tiles.begin(tile_end) - first) * kPanelWidth, 0.0f);
  const bool alone = tile_end - tile_begin == 1;
  const size_t step = alone ? layout.blocks : kBlocksAtOnce;
  for (size_t block = 0; block < layout.blocks; block += step) {
    for (size_t tile = tile_begin; tile < tile_end; ++tile) {
      const size_t row = job.tiles.begin(tile);
      const size_t rows = job.tiles.size(tile);
      const size_t group_ahead = tile == tile_begin ? step * layout.record_bytes : 0;
      const size_t at = row * layout.blocks + block * rows;
      multiply_rows<Codes>(
          rows, {.records = job.records + (panel * layout.blocks + block) * layout.record_bytes,
                 .record_bytes = layout.record_bytes,
                 .zeros_at = layout.zeros_at,
                 .codes_at = layout.codes_at,
                 .half_scales = job.half_scales,
                 .has_zeros = job.has_zeros,
                 .depth = layout.depth,
                 .x = job.codes + at * layout.depth,
                 .x_scales = job.scales + at,
                 .x_sums = job.sums + at,
                 .results = results + (row - first) * kPanelWidth,
                 .blocks = std::min(step, layout.blocks - block),
                 .bytes_ahead = alone ? kBytesAhead : group_ahead});
    }
  }
}

void multiply_task(const QuantizedJob& job, size_t task) {
  HWY_ALIGN float results[kQuantizedRowsPerTask * kPanelWidth];
  const size_t panel_begin = task / job.tile_groups * job.panels_per_task;
  const size_t panel_end = std::min(panel_begin + job.panels_per_task, job.layout.panels);
  const size_t tile_begin = task % job.tile_groups * job.tiles_per_task;
  const size_t tile_end = std::min(tile_begin + job.tiles_per_task, job.tiles.count);
  for (size_t panel = panel_begin; panel < panel_end; ++panel) {
    if (job.format == WeightFormat::kInt4) {
      multiply_panel<Int4Codes>(job, panel, tile_begin, tile_end, results);
    } else {
      multiply_panel<Int8Codes>(job, panel, tile_begin, tile_end, results);
    }
    const float* sums = results;
    for (size_t row = job.tiles.begin(tile_begin); row < job.tiles.begin(tile_end); ++row) {
      store_panel(sums, job.bias, panel, job.y, row);
      sums += kPanelWidth;
    }
  }
}

size_t quantized_tile_rows() { return kQuantizedTileRows; }

void multiply_tasks(const QuantizedJob& job, size_t begin, size_t end) {
  for (size_t task = begin; task < end; ++task) multiply_task(job, task);
}

}  // namespace cogserve::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace cogserve::cpu {
namespace {

HWY_EXPORT(quantize_tiles);
HWY_EXPORT(multiply_tasks);
HWY_EXPORT(quantized_tile_rows);

QuantizedLayout layout_of(const Weight& weight) {
  return QuantizedLayout(weight.format, weight.out_features, weight.in_features, weight.group_size,
                         weight.scale_dtype, weight.has_zeros);
}

// One block of one output (column `column` of its panel).
void pack_codes(const HostWeight& source, size_t first, size_t count, size_t column,
                std::byte* codes) {
  const bool int4 = source.format == WeightFormat::kInt4;
  for (size_t i = 0; i < count; ++i) {
    const size_t word = i / (int4 ? 8 : 4);
    std::byte& to = codes[(word * kPanelWidth + column) * 4 + i % 4];
    if (int4) {
      to |= static_cast<std::byte>(nibble_code(source, static_cast<int64_t>(first + i))
                                   << (i % 8 < 4 ? 0 : 4));
    } else {
      to = source.codes[first + i];
    }
  }
}

void pack_record(const HostWeight& source, const QuantizedLayout& layout, size_t panel,
                 size_t block, std::byte* record) {
  std::memset(record, 0, layout.record_bytes);
  const size_t first = panel * kPanelWidth;
  const size_t columns = std::min<size_t>(kPanelWidth, source.out_features - first);
  const bool half_scales = source.scale_dtype == DType::kF16;
  auto* halves = reinterpret_cast<Float16*>(record);
  auto* floats = reinterpret_cast<float*>(record);
  auto* zeros = reinterpret_cast<int32_t*>(record + layout.zeros_at);
  for (size_t column = 0; column < columns; ++column) {
    const size_t row = first + column;
    const size_t group = row * source.groups() + layout.group_of(block);
    if (half_scales) {
      halves[column] = to_float16(source.scales[group]);
    } else {
      floats[column] = source.scales[group];
    }
    if (source.has_zeros) zeros[column] = source.zeros[group];
    pack_codes(source, row * layout.in + layout.begin(block), layout.size(block), column,
               record + layout.codes_at);
  }
}

void multiply_chunk(const Tensor& x, const Weight& weight, const Tensor* bias, const Tensor& y,
                    Workspace& workspace, ThreadPool& pool) {
  const QuantizedLayout layout = layout_of(weight);
  const size_t blocks = x.rows * layout.blocks;
  float* scales = workspace.shared(2 * blocks + blocks * layout.depth / sizeof(float));
  auto* sums = reinterpret_cast<int32_t*>(scales + blocks);
  const size_t tile_rows = HWY_DYNAMIC_DISPATCH(quantized_tile_rows)();
  const RowTiles tiles(x.rows, tile_rows);
  const size_t tiles_per_task = kQuantizedRowsPerTask / tile_rows;
  const size_t tile_groups = ceil_div(tiles.count, tiles_per_task);
  const QuantizedJob job{.layout = layout,
                         .records = static_cast<const std::byte*>(weight.storage.data()),
                         .format = weight.format,
                         .half_scales = weight.scale_dtype == DType::kF16,
                         .has_zeros = weight.has_zeros,
                         .x = x,
                         .codes = reinterpret_cast<int8_t*>(sums + blocks),
                         .scales = scales,
                         .sums = sums,
                         .bias = bias == nullptr ? nullptr : bias->row<float>(0),
                         .y = y,
                         .tiles = tiles,
                         .panels_per_task = panels_per_task(layout.panels, tile_groups,
                                                            kQuantizedPanelsPerTask, pool.size()),
                         .tiles_per_task = tiles_per_task,
                         .tile_groups = tile_groups};
  pool.parallel_for(tiles.count, 4, [&](size_t begin, size_t end, int) {
    HWY_DYNAMIC_DISPATCH(quantize_tiles)(job, begin, end);
  });
  const size_t tasks = ceil_div(layout.panels, job.panels_per_task) * tile_groups;
  const bool serial = static_cast<size_t>(x.rows * x.cols * y.cols) < kSerialQuantizedWork;
  pool.parallel_for(tasks, serial ? tasks : 1, [&](size_t begin, size_t end, int) {
    HWY_DYNAMIC_DISPATCH(multiply_tasks)(job, begin, end);
  });
}

}  // namespace

size_t quantized_weight_bytes(const HostWeight& form) {
  return QuantizedLayout(form.format, form.out_features, form.in_features, form.group_size,
                         form.scale_dtype, form.has_zeros)
      .bytes();
}

void pack_quantized_weight(const HostWeight& source, const Weight& weight, ThreadPool& pool) {
  const QuantizedLayout layout = layout_of(weight);
  auto* records = static_cast<std::byte*>(weight.storage.data());
  pool.parallel_for(layout.panels, 1, [&](size_t begin, size_t end, int) {
    for (size_t panel = begin; panel < end; ++panel) {
      for (size_t block = 0; block < layout.blocks; ++block) {
        pack_record(source, layout, panel, block,
                    records + (panel * layout.blocks + block) * layout.record_bytes);
      }
    }
  });
}

void quantized_linear(const Tensor& x, const Weight& weight, const Tensor* bias, const Tensor& y,
                      Workspace& workspace, ThreadPool& pool) {
  const int64_t chunk =
      std::max<int64_t>(kQuantizedRowsPerTask, static_cast<int64_t>(kQuantizedRowBytes) / x.cols);
  for (int64_t begin = 0; begin < x.rows; begin += chunk) {
    const int64_t count = std::min(chunk, x.rows - begin);
    multiply_chunk(x.slice_rows(begin, count), weight, bias, y.slice_rows(begin, count), workspace,
                   pool);
  }
}

}  // namespace cogserve::cpu
#endif  // HWY_ONCE
