#include "engine/backend/cpu/linear.hpp"

#include <type_traits>

#include "engine/backend/cpu/bf16_dot.hpp"
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
  // Row tiles, each interleaved: [tile][step][row of the tile]. A step is one f32, or one pair.
  const void* x;
  size_t steps;
  const Weight* weight;
  Products products;
  const float* bias;  // or null
  Tensor y;
  RowTiles tiles;
  size_t panels_per_task;
  size_t tiles_per_task;
  size_t tile_groups;
};

// Whether W is packed in pairs.
inline bool is_paired(const Weight& weight, Products products) {
  return products == Products::kBF16 && weight.format == WeightFormat::kDense &&
         weight.dtype == DType::kBF16;
}

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
template <class B, class A = float>
struct StoredPanels {
  using Values = B;
  using Inputs = A;
  static const B* read(const LinearJob& job, size_t panel, size_t /*panels*/, size_t k,
                       size_t /*depth*/, B* /*scratch*/) {
    return static_cast<const B*>(job.weight->storage.data()) +
           (panel * job.steps + k) * kPanelWidth;
  }
  static size_t stride(const LinearJob& job, size_t /*slice*/) { return job.steps * kPanelWidth; }
};
struct CodebookPanels {
  using Values = float;
  using Inputs = float;
  static const float* read(const LinearJob& job, size_t panel, size_t panels, size_t k,
                           size_t depth, float* scratch) {
    for (size_t p = 0; p < panels; ++p) {
      read_codebook_panel(*job.weight, panel + p, k, depth,
                          scratch + p * kSliceBytes / sizeof(float));
    }
    return scratch;
  }
  static size_t stride(const LinearJob& /*job*/, size_t slice) { return slice * kPanelWidth; }
};
using PairedPanels = StoredPanels<BFloat16Pair, BFloat16Pair>;

// Only where the target in force is AVX-512, which tests and an operating system may forbid.
bool uses_bf16_dot() {
  return (HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL) && has_bf16_dot();
}

template <class B>
void multiply_rows(size_t rows, const Product<B>& product) {
  multiply_tile<InterleavedRows>(rows, product);
}
void multiply_rows(size_t rows, const PairProduct& product) {
  if (uses_bf16_dot()) return multiply_dot_tile(rows, product);
  multiply_tile<InterleavedRows>(rows, product);
}

// Some row tiles times some panels; `sums` is scratch for all of them, and for a slice of panels
// behind them.
template <class Panels>
void linear_task(const LinearJob& job, size_t task, float* sums) {
  using Values = typename Panels::Values;
  using Inputs = typename Panels::Inputs;
  const size_t panel_begin = task / job.tile_groups * job.panels_per_task;
  const size_t panel_end = std::min(panel_begin + job.panels_per_task, panel_count(job.y.cols));
  const size_t tile_begin = task % job.tile_groups * job.tiles_per_task;
  const size_t tile_end = std::min(tile_begin + job.tiles_per_task, job.tiles.count);
  const size_t row_begin = job.tiles.begin(tile_begin);
  const size_t row_end = job.tiles.begin(tile_end);
  const size_t sums_per_panel = (row_end - row_begin) * kPanelWidth;
  // A lone tile reads its weights once anyway; several share each slice while it is near.
  const bool alone = tile_end - tile_begin == 1 && !std::is_same_v<Panels, CodebookPanels>;
  const size_t slice = alone ? job.steps : kSliceBytes / (kPanelWidth * sizeof(Values));
  const size_t panel_step = alone ? panel_end - panel_begin : panels_at_once(kTileRows);
  float* const scratch = sums + (panel_end - panel_begin) * sums_per_panel;
  for (size_t k = 0; k < job.steps; k += slice) {
    const size_t depth = std::min(slice, job.steps - k);
    for (size_t panel = panel_begin; panel < panel_end; panel += panel_step) {
      const size_t panels = std::min(panel_step, panel_end - panel);
      const Values* weights =
          Panels::read(job, panel, panels, k, depth, reinterpret_cast<Values*>(scratch));
      for (size_t tile = tile_begin; tile < tile_end; ++tile) {
        const size_t row = job.tiles.begin(tile);
        const size_t rows = job.tiles.size(tile);
        multiply_rows(rows, Product<Values, Inputs>{
                                .a = static_cast<const Inputs*>(job.x) + row * job.steps + k * rows,
                                .a_row_stride = 0,
                                .b = weights,
                                .b_panel_stride = Panels::stride(job, slice),
                                .c = sums + (panel - panel_begin) * sums_per_panel +
                                     (row - row_begin) * kPanelWidth,
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

// As to_bfloat16, in the upper half of each word; the lower is undefined.
template <class D>
HWY_INLINE hn::Vec<D> round_to_bf16(D d32, F32Vec values) {
  const auto bits = hn::BitCast(d32, values);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d32, 1));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(d32, 0x7fff)));
  const auto quiet = hn::Or(bits, hn::Set(d32, 0x00400000));
  return hn::IfThenElse(hn::RebindMask(d32, hn::IsNaN(values)), quiet, rounded);
}

// The steps of a row of x, in pairs of bf16 or f32, to places that are `stride` words apart.
void spread_steps(const float* row, size_t depth, bool paired, size_t stride, float* to) {
  if (!paired) {
    for (size_t k = 0; k < depth; ++k) to[k * stride] = row[k];
    return;
  }
  const F32 d;
  const hn::Repartition<uint32_t, F32> d32;
  auto* pairs = reinterpret_cast<BFloat16Pair*>(to);
  size_t k = 0;
  for (; (k + kLanes) * 2 <= depth; k += kLanes) {
    F32Vec low, high;
    hn::LoadInterleaved2(d, row + 2 * k, low, high);
    const auto words = hn::Or(hn::ShiftRight<16>(round_to_bf16(d32, low)),
                              hn::And(round_to_bf16(d32, high), hn::Set(d32, 0xffff0000u)));
    HWY_ALIGN uint32_t bits[kLanes];
    hn::Store(words, d32, bits);
    for (size_t i = 0; i < kLanes; ++i) pairs[(k + i) * stride] = {bits[i]};
  }
  for (; 2 * k < depth; ++k) {
    const uint32_t high = 2 * k + 1 < depth ? to_bfloat16(row[2 * k + 1]).bits : 0;
    pairs[k * stride] = {to_bfloat16(row[2 * k]).bits | high << 16};
  }
}

// Of a tile, at most, where there are so many rows in all.
size_t linear_tile_rows(size_t rows, bool paired) {
  return paired && uses_bf16_dot() ? dot_tile_rows(rows) : kTileRows;
}

void linear_task_of(const LinearJob& job, size_t task, float* sums) {
  const Weight& weight = *job.weight;
  if (weight.format == WeightFormat::kCodebook4) {
    linear_task<CodebookPanels>(job, task, sums);
  } else if (is_paired(weight, job.products)) {
    linear_task<PairedPanels>(job, task, sums);
  } else if (weight.dtype == DType::kBF16) {
    linear_task<StoredPanels<BFloat16>>(job, task, sums);
  } else if (weight.dtype == DType::kF16) {
    linear_task<StoredPanels<Float16>>(job, task, sums);
  } else {
    linear_task<StoredPanels<float>>(job, task, sums);
  }
}

void linear_tasks(const LinearJob& job, size_t begin, size_t end, float* sums) {
  for (size_t task = begin; task < end; ++task) linear_task_of(job, task, sums);
}

}  // namespace cogserve::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace cogserve::cpu {
namespace {

HWY_EXPORT(linear_tasks);
HWY_EXPORT(linear_tile_rows);
HWY_EXPORT(spread_steps);

// Values of a panel, those of missing outputs and of a last half pair too.
size_t panel_elements(DType dtype, size_t in_features) {
  return kPanelWidth * (dtype == DType::kBF16 ? 2 * pair_count(in_features) : in_features);
}

// `source` has no alignment (see HostTensor).
template <typename Element>
void pack_panel(const std::byte* source, const Weight& weight, bool paired, size_t panel) {
  const size_t in_features = weight.in_features;
  const size_t first = panel * kPanelWidth;
  const size_t columns = std::min<size_t>(kPanelWidth, weight.out_features - first);
  const size_t elements =
      paired ? panel_elements(weight.dtype, in_features) : kPanelWidth * in_features;
  Element* packed = static_cast<Element*>(weight.storage.data()) + panel * elements;
  std::fill_n(packed, elements, Element{});
  for (size_t column = 0; column < columns; ++column) {
    const std::byte* row = source + (first + column) * in_features * sizeof(Element);
    const auto put = [&](size_t k, size_t slot) {
      std::memcpy(packed + slot, row + k * sizeof(Element), sizeof(Element));
    };
    if (paired) {
      for (size_t k = 0; k < in_features; ++k) put(k, (k / 2 * kPanelWidth + column) * 2 + k % 2);
    } else {
      const size_t slot = panel_slot(weight.dtype, column);
      for (size_t k = 0; k < in_features; ++k) put(k, k * kPanelWidth + slot);
    }
  }
}

// Rows of x, each tile's rows step by step side by side.
void interleave_rows(const Tensor& x, const RowTiles& tiles, bool paired, size_t steps, float* out,
                     ThreadPool& pool) {
  pool.parallel_for(tiles.count, 4, [&](size_t begin, size_t end, int) {
    for (size_t tile = begin; tile < end; ++tile) {
      const size_t rows = tiles.size(tile);
      float* to = out + tiles.begin(tile) * steps;
      for (size_t r = 0; r < rows; ++r) {
        HWY_DYNAMIC_DISPATCH(spread_steps)
        (x.row<float>(tiles.begin(tile) + r), x.cols, paired, rows, to + r);
      }
    }
  });
}

void multiply_chunk(const Tensor& x, const Weight& weight, Products products, const Tensor* bias,
                    const Tensor& y, Workspace& workspace, ThreadPool& pool) {
  const bool paired = is_paired(weight, products);
  const size_t tile_rows = HWY_DYNAMIC_DISPATCH(linear_tile_rows)(x.rows, paired);
  const RowTiles tiles(x.rows, tile_rows);
  const size_t tiles_per_task = kRowsPerTask / tile_rows;
  const size_t steps = paired ? pair_count(x.cols) : x.cols;
  const void* rows = x.row<float>(0);
  if (paired || x.rows > 1) {
    float* interleaved = workspace.shared(x.rows * steps);
    interleave_rows(x, tiles, paired, steps, interleaved, pool);
    rows = interleaved;
  }
  const size_t panels = panel_count(y.cols);
  const size_t tile_groups = ceil_div(tiles.count, tiles_per_task);
  const LinearJob job{
      .x = rows,
      .steps = steps,
      .weight = &weight,
      .products = products,
      .bias = bias == nullptr ? nullptr : bias->row<float>(0),
      .y = y,
      .tiles = tiles,
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
  return panel_count(out_features) * panel_elements(dtype, in_features) * dtype_size(dtype);
}

void pack_weight(const std::byte* source, const Weight& weight, Products products,
                 ThreadPool& pool) {
  const bool paired = is_paired(weight, products);
  pool.parallel_for(panel_count(weight.out_features), 1, [&](size_t begin, size_t end, int) {
    for (size_t panel = begin; panel < end; ++panel) {
      if (weight.dtype == DType::kF32) {
        pack_panel<uint32_t>(source, weight, paired, panel);
      } else {
        pack_panel<uint16_t>(source, weight, paired, panel);
      }
    }
  });
}

void linear(const Tensor& x, const Weight& weight, Products products, const Tensor* bias,
            const Tensor& y, Workspace& workspace, ThreadPool& pool) {
  const int64_t row_bytes = x.cols * static_cast<int64_t>(sizeof(float));
  const int64_t chunk =
      std::max<int64_t>(kRowsPerTask, static_cast<int64_t>(kInterleavedBytes) / row_bytes);
  for (int64_t begin = 0; begin < x.rows; begin += chunk) {
    const int64_t count = std::min(chunk, x.rows - begin);
    multiply_chunk(x.slice_rows(begin, count), weight, products, bias, y.slice_rows(begin, count),
                   workspace, pool);
  }
}

}  // namespace cogserve::cpu
#endif  // HWY_ONCE
