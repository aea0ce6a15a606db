#include "engine/backend/cpu/linear.hpp"

#include <type_traits>

#include "engine/backend/cpu/codebook.hpp"
#include "engine/backend/cpu/simd_targets.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/backend/cpu/linear.cpp"
#include "hwy/foreach_target.h"  // compiles this file once for each target
// (and these after it)
#include "engine/backend/cpu/panel_kernel-inl.hpp"

#ifndef COGSERVE_CPU_LINEAR_ONCE
#define COGSERVE_CPU_LINEAR_ONCE
namespace cogserve::cpu {

// Bytes of a panel's slice that several row tiles go through while it stays in the first cache.
inline constexpr size_t kSliceBytes = 16 << 10;
// Rows and panels of one task, at most: sums and a slice of x are a fraction of the second cache.
inline constexpr size_t kRowsPerTask = 96;
inline constexpr size_t kPanelsPerTask = 8;
// Bytes of x that are interleaved at a time.
inline constexpr size_t kInterleavedBytes = size_t{16} << 20;
// Multiply-adds below which waking another thread costs more than it saves.
inline constexpr size_t kSerialWork = 1 << 17;

// One chunk of rows times the whole matrix, and how it is cut into tasks: those with the same
// panels next to each other.
struct LinearJob {
  const float* x;  // row tiles, each interleaved: [tile][k][row of the tile]
  const Weight* weight;
  const float* bias;  // or null
  Tensor y;
  RowTiles tiles;
  size_t in_features;
  size_t panels_per_task;
  size_t tiles_per_task;
  size_t tile_groups;
};

}  // namespace cogserve::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace cogserve::cpu::HWY_NAMESPACE {

// Sums of some rows by some panels, [panel][row][16], + bias -> y.
void store_sums(const LinearJob& job, const float* sums, size_t row_begin, size_t row_end,
                size_t panel_begin, size_t panel_end) {
  for (size_t panel = panel_begin; panel < panel_end; ++panel) {
    for (size_t row = row_begin; row < row_end; ++row) {
      store_panel(sums, job.bias, panel, job.y, row);
      sums += kPanelWidth;
    }
  }
}

// W[panel .. panel + panels - 1, k .. k + depth - 1]: where a weight stores it, or in `scratch`.
struct StoredPanels {
  template <class T>
  static const T* read(const Weight& weight, size_t panel, size_t /*panels*/, size_t k,
                       size_t /*depth*/, T* /*scratch*/) {
    return static_cast<const T*>(weight.storage.data()) +
           (panel * weight.in_features + k) * kPanelWidth;
  }
  static size_t stride(size_t in_features, size_t /*slice*/) { return in_features * kPanelWidth; }
};
struct CodebookPanels {
  static const float* read(const Weight& weight, size_t panel, size_t panels, size_t k,
                           size_t depth, float* scratch) {
    for (size_t p = 0; p < panels; ++p) {
      read_codebook_panel(weight, panel + p, k, depth, scratch + p * kSliceBytes / sizeof(float));
    }
    return scratch;
  }
  static size_t stride(size_t /*in_features*/, size_t slice) { return slice * kPanelWidth; }
};

// Some row tiles times some panels; `sums` is scratch for all of them, and for a slice of panels
// behind them.
template <class T, class Panels = StoredPanels>
void linear_task(const LinearJob& job, size_t task, float* sums) {
  const size_t panel_begin = task / job.tile_groups * job.panels_per_task;
  const size_t panel_end = std::min(panel_begin + job.panels_per_task, panel_count(job.y.cols));
  const size_t tile_begin = task % job.tile_groups * job.tiles_per_task;
  const size_t tile_end = std::min(tile_begin + job.tiles_per_task, job.tiles.count);
  const size_t row_begin = job.tiles.begin(tile_begin);
  const size_t row_end = job.tiles.begin(tile_end);
  const size_t sums_per_panel = (row_end - row_begin) * kPanelWidth;
  // A lone tile reads its weights once anyway; several share each slice while it is near.
  const bool alone = tile_end - tile_begin == 1 && std::is_same_v<Panels, StoredPanels>;
  const size_t slice = alone ? job.in_features : kSliceBytes / (kPanelWidth * sizeof(T));
  const size_t panel_step = alone ? panel_end - panel_begin : panels_at_once(kTileRows);
  float* const scratch = sums + (panel_end - panel_begin) * sums_per_panel;
  for (size_t k = 0; k < job.in_features; k += slice) {
    const size_t depth = std::min(slice, job.in_features - k);
    for (size_t panel = panel_begin; panel < panel_end; panel += panel_step) {
      const size_t panels = std::min(panel_step, panel_end - panel);
      const T* weights =
          Panels::read(*job.weight, panel, panels, k, depth, reinterpret_cast<T*>(scratch));
      for (size_t tile = tile_begin; tile < tile_end; ++tile) {
        const size_t row = job.tiles.begin(tile);
        const size_t rows = job.tiles.size(tile);
        multiply_tile<InterleavedRows, T>(
            rows,
            {.a = job.x + row * job.in_features + k * rows,
             .a_row_stride = 0,
             .b = weights,
             .b_panel_stride = Panels::stride(job.in_features, slice),
             .c = sums + (panel - panel_begin) * sums_per_panel + (row - row_begin) * kPanelWidth,
             .c_row_stride = kPanelWidth,
             .c_panel_stride = sums_per_panel,
             .panels = panels,
             .depth = depth,
             .accumulate = k > 0});
      }
    }
  }
  store_sums(job, sums, row_begin, row_end, panel_begin, panel_end);
}

size_t linear_tile_rows() { return kTileRows; }

void linear_tasks(const LinearJob& job, size_t begin, size_t end, float* sums) {
  for (size_t task = begin; task < end; ++task) {
    if (job.weight->format == WeightFormat::kCodebook4) {
      linear_task<float, CodebookPanels>(job, task, sums);
      continue;
    }
    switch (job.weight->dtype) {
      case DType::kBF16:
        linear_task<BFloat16>(job, task, sums);
        break;
      case DType::kF16:
        linear_task<Float16>(job, task, sums);
        break;
      default:
        linear_task<float>(job, task, sums);
        break;
    }
  }
}

}  // namespace cogserve::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace cogserve::cpu {
namespace {

HWY_EXPORT(linear_tasks);
HWY_EXPORT(linear_tile_rows);

// `source` has no alignment (see HostTensor).
template <typename Element>
void pack_panel(const std::byte* source, DType dtype, size_t out_features, size_t in_features,
                size_t panel, Element* packed) {
  const size_t first = panel * kPanelWidth;
  const size_t columns = std::min(kPanelWidth, out_features - first);
  std::fill_n(packed, kPanelWidth * in_features, Element{});
  for (size_t column = 0; column < columns; ++column) {
    const std::byte* row = source + (first + column) * in_features * sizeof(Element);
    Element* slot = packed + panel_slot(dtype, column);
    for (size_t k = 0; k < in_features; ++k) {
      std::memcpy(slot + k * kPanelWidth, row + k * sizeof(Element), sizeof(Element));
    }
  }
}

// Rows of x, each tile's rows element by element side by side.
void interleave_rows(const Tensor& x, const RowTiles& tiles, float* out, ThreadPool& pool) {
  const size_t depth = x.cols;
  pool.parallel_for(tiles.count, 4, [&](size_t begin, size_t end, int) {
    for (size_t tile = begin; tile < end; ++tile) {
      const size_t rows = tiles.size(tile);
      float* to = out + tiles.begin(tile) * depth;
      for (size_t r = 0; r < rows; ++r) {
        const float* from = x.row<float>(tiles.begin(tile) + r);
        for (size_t k = 0; k < depth; ++k) to[k * rows + r] = from[k];
      }
    }
  });
}

void multiply_chunk(const Tensor& x, const Weight& weight, const Tensor* bias, const Tensor& y,
                    Workspace& workspace, ThreadPool& pool) {
  const size_t tile_rows = HWY_DYNAMIC_DISPATCH(linear_tile_rows)();
  const RowTiles tiles(x.rows, tile_rows);
  const size_t tiles_per_task = kRowsPerTask / tile_rows;
  const float* rows = x.row<float>(0);
  if (x.rows > 1) {
    float* interleaved = workspace.shared(x.rows * x.cols);
    interleave_rows(x, tiles, interleaved, pool);
    rows = interleaved;
  }
  const size_t panels = panel_count(y.cols);
  const size_t tile_groups = ceil_div(tiles.count, tiles_per_task);
  const LinearJob job{
      .x = rows,
      .weight = &weight,
      .bias = bias == nullptr ? nullptr : bias->row<float>(0),
      .y = y,
      .tiles = tiles,
      .in_features = static_cast<size_t>(x.cols),
      .panels_per_task = panels_per_task(panels, tile_groups, kPanelsPerTask, pool.size()),
      .tiles_per_task = tiles_per_task,
      .tile_groups = tile_groups};
  const size_t tasks = ceil_div(panels, job.panels_per_task) * tile_groups;
  workspace.prepare_workers(kPanelsPerTask * kPanelWidth * std::min<size_t>(x.rows, kRowsPerTask) +
                            kPanelsPerTask * kSliceBytes / sizeof(float));
  const bool serial = static_cast<size_t>(x.rows * x.cols * y.cols) < kSerialWork;
  pool.parallel_for(tasks, serial ? tasks : 1, [&](size_t begin, size_t end, int worker) {
    HWY_DYNAMIC_DISPATCH(linear_tasks)
    (job, begin, end, workspace.of_worker(worker));
  });
}

}  // namespace

size_t packed_weight_bytes(DType dtype, size_t out_features, size_t in_features) {
  return panel_count(out_features) * kPanelWidth * in_features * dtype_size(dtype);
}

void pack_weight(const std::byte* source, const Weight& weight, ThreadPool& pool) {
  const size_t out = weight.out_features;
  const size_t in = weight.in_features;
  pool.parallel_for(panel_count(out), 1, [&](size_t begin, size_t end, int) {
    for (size_t panel = begin; panel < end; ++panel) {
      const size_t at = panel * kPanelWidth * in;
      if (weight.dtype == DType::kF32) {
        pack_panel(source, weight.dtype, out, in, panel,
                   static_cast<uint32_t*>(weight.storage.data()) + at);
      } else {
        pack_panel(source, weight.dtype, out, in, panel,
                   static_cast<uint16_t*>(weight.storage.data()) + at);
      }
    }
  });
}

void linear(const Tensor& x, const Weight& weight, const Tensor* bias, const Tensor& y,
            Workspace& workspace, ThreadPool& pool) {
  const int64_t row_bytes = x.cols * static_cast<int64_t>(sizeof(float));
  const int64_t chunk =
      std::max<int64_t>(kRowsPerTask, static_cast<int64_t>(kInterleavedBytes) / row_bytes);
  for (int64_t begin = 0; begin < x.rows; begin += chunk) {
    const int64_t count = std::min(chunk, x.rows - begin);
    multiply_chunk(x.slice_rows(begin, count), weight, bias, y.slice_rows(begin, count), workspace,
                   pool);
  }
}

}  // namespace cogserve::cpu
#endif  // HWY_ONCE
