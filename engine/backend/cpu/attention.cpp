#include "engine/backend/cpu/attention.hpp"

#include "engine/backend/cpu/simd_targets.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/backend/cpu/attention.cpp"
#include "hwy/foreach_target.h"  // compiles this file once for each target
// (and these after it)
#include <limits>
#include <vector>

#include "engine/backend/cpu/panel_kernel-inl.hpp"

#ifndef COGSERVE_CPU_ATTENTION_ONCE
#define COGSERVE_CPU_ATTENTION_ONCE
namespace cogserve::cpu {

inline constexpr size_t kKeyTile = 64;
// From one panel of values to the next, with a gap: at a distance of 4096 bytes all panels would
// fight for the same lines of the first cache.
inline constexpr size_t kValuePanel = (kKeyTile + 1) * kPanelWidth;
// Rows of keys and values that are asked for ahead of their use.
inline constexpr size_t kRowsAhead = 16;
inline constexpr int kSecondCache = 2;  // as __builtin_prefetch counts
// Query rows that share a tile of keys and values: enough to make fetching it cheap.
inline constexpr size_t kQueryRows = 96;
// Multiply-adds below which waking another thread costs more than it saves.
inline constexpr size_t kSerialAttention = 1 << 18;

// Keys and values of one KV head; row i of either is at base + row_at(i).
struct KeyValueSource {
  const float* keys;
  const float* values;
  const int32_t* block_table;
  size_t block_size;
  size_t block_stride;
  size_t row_stride;

  size_t row_at(size_t index) const {
    return block_table[index / block_size] * block_stride + index % block_size * row_stride;
  }
};

// Some consecutive tokens of one sequence, for the `group` query heads of one KV head. Query row
// t * group + g is head g of token t.
struct AttentionUnit {
  KeyValueSource source;
  const float* q;  // token t, head g: q + t * q_stride + g * head_dim
  size_t q_stride;
  float* y;
  size_t y_stride;
  size_t tokens;
  size_t group;
  size_t head_dim;
  size_t first_limit;  // token t attends to keys [0, first_limit + t * limit_step)
  size_t limit_step;   // 1 = causal, 0 = all see the same keys
  float scale;

  size_t rows() const { return tokens * group; }
  size_t limit(size_t row) const { return first_limit + row / group * limit_step; }
};

// Scratch of one unit, cut out of one allocation.
struct AttentionScratch {
  size_t padded_dim;  // head_dim rounded up to whole panels
  float* keys;        // [panel of 16 keys][head_dim][16]
  float* values;      // [panel of 16 dimensions][kKeyTile][16], panels kValuePanel apart
  float* scores;      // [rows][kKeyTile]
  float* sums;        // [rows][padded_dim]: the result, not yet divided by `weights`
  float* queries;     // row tiles, interleaved: [tile][head_dim][row of the tile]
  float* maxima;      // [rows]: largest score so far
  float* weights;     // [rows]: sum of e^(score - maximum) so far
  float* zeros;       // [head_dim]: fills up the last four keys

  static size_t floats(size_t rows, size_t head_dim) {
    const size_t padded = panel_count(head_dim) * kPanelWidth;
    return rows * (head_dim + kKeyTile + padded + 2) + kKeyTile * head_dim +
           panel_count(head_dim) * kValuePanel + head_dim;
  }

  AttentionScratch(float* memory, size_t rows, size_t head_dim)
      : padded_dim(panel_count(head_dim) * kPanelWidth),
        keys(memory),
        values(keys + kKeyTile * head_dim),
        scores(values + panel_count(head_dim) * kValuePanel),
        sums(scores + rows * kKeyTile),
        queries(sums + rows * padded_dim),
        maxima(queries + rows * head_dim),
        weights(maxima + rows),
        zeros(weights + rows) {}
};

}  // namespace cogserve::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace cogserve::cpu::HWY_NAMESPACE {

// out[j * kPanelWidth + i] = rows[i][j] for 4 rows and `dims` dimensions.
HWY_INLINE void transpose_4_rows(const float* const* rows, size_t dims, float* out) {
  size_t j = 0;
#if HWY_TARGET != HWY_SCALAR
  const hn::FixedTag<float, 4> d;
  for (; j + 4 <= dims; j += 4) {
    const auto a = hn::LoadU(d, rows[0] + j);
    const auto b = hn::LoadU(d, rows[1] + j);
    const auto c = hn::LoadU(d, rows[2] + j);
    const auto e = hn::LoadU(d, rows[3] + j);
    const auto ab_low = hn::InterleaveLower(d, a, b);
    const auto ab_high = hn::InterleaveUpper(d, a, b);
    const auto ce_low = hn::InterleaveLower(d, c, e);
    const auto ce_high = hn::InterleaveUpper(d, c, e);
    hn::StoreU(hn::ConcatLowerLower(d, ce_low, ab_low), d, out + j * kPanelWidth);
    hn::StoreU(hn::ConcatUpperUpper(d, ce_low, ab_low), d, out + (j + 1) * kPanelWidth);
    hn::StoreU(hn::ConcatLowerLower(d, ce_high, ab_high), d, out + (j + 2) * kPanelWidth);
    hn::StoreU(hn::ConcatUpperUpper(d, ce_high, ab_high), d, out + (j + 3) * kPanelWidth);
  }
#endif
  for (; j < dims; ++j) {
    for (size_t i = 0; i < 4; ++i) out[j * kPanelWidth + i] = rows[i][j];
  }
}

// One row of values -> its place in each panel.
HWY_INLINE void spread_row(const float* from, size_t dims, float* to) {
  const F32 d;
  size_t j = 0;
  for (; j + kPanelWidth <= dims; j += kPanelWidth) {
    COGSERVE_UNROLL
    for (size_t v = 0; v < kVectors; ++v) {
      hn::Store(hn::LoadU(d, from + j + v * kLanes), d, to + v * kLanes);
    }
    to += kValuePanel;
  }
  for (; j < dims; ++j) to[j % kPanelWidth] = from[j];
}

// Asks for keys and values that are fetched soon, or in the next tile, after this one's sums: into
// the second cache, because the scratch fills the first.
HWY_INLINE void prefetch_rows(const AttentionUnit& unit, size_t begin, size_t end) {
  for (size_t index = begin; index < std::min(end, unit.limit(unit.rows() - 1)); ++index) {
    const size_t at = unit.source.row_at(index);
    for (size_t j = 0; j < unit.head_dim; j += kPanelWidth) {
      __builtin_prefetch(unit.source.keys + at + j, /*rw=*/0, kSecondCache);
      __builtin_prefetch(unit.source.values + at + j, /*rw=*/0, kSecondCache);
    }
  }
}

// Keys and values [begin, begin + count) into the scratch, in the layouts the micro-kernel reads.
void fetch_tile(const AttentionUnit& unit, size_t begin, size_t count,
                const AttentionScratch& scratch) {
  constexpr size_t kStep = 4;
  const size_t dims = unit.head_dim;
  for (size_t i = 0; i < count; i += kStep) {
    prefetch_rows(unit, begin + i + kRowsAhead, begin + i + kRowsAhead + kStep);
    const float* keys[kStep];
    for (size_t r = 0; r < kStep; ++r) {
      keys[r] = scratch.zeros;
      if (i + r >= count) continue;
      const size_t at = unit.source.row_at(begin + i + r);
      keys[r] = unit.source.keys + at;
      spread_row(unit.source.values + at, dims, scratch.values + (i + r) * kPanelWidth);
    }
    transpose_4_rows(keys, dims,
                     scratch.keys + i / kPanelWidth * kPanelWidth * dims + i % kPanelWidth);
  }
}

// Scores of one row -> weights e^(score - maximum), for its `count` keys of this tile. Earlier
// sums shrink to the new maximum.
HWY_INLINE void update_row(float* scores, size_t count, float* maximum, float* weight, float* sums,
                           size_t padded_dim) {
  const F32 d;
  const size_t padded = hwy::RoundUpTo(count, kLanes);
  for (size_t i = count; i < padded; ++i) scores[i] = -std::numeric_limits<float>::infinity();
  F32Vec top = hn::Set(d, *maximum);
  for (size_t i = 0; i < padded; i += kLanes) top = hn::Max(top, hn::Load(d, scores + i));
  top = hn::MaxOfLanes(d, top);
  F32Vec total = hn::Zero(d);
  for (size_t i = 0; i < padded; i += kLanes) {
    const F32Vec e = exp_nonpositive(hn::Sub(hn::Load(d, scores + i), top));
    hn::Store(e, d, scores + i);
    total = hn::Add(total, e);
  }
  const F32Vec shrink = exp_nonpositive(hn::Sub(hn::Set(d, *maximum), top));
  const float factor = hn::GetLane(shrink);
  *weight = *weight * factor + hn::GetLane(hn::SumOfLanes(d, total));
  *maximum = hn::GetLane(top);
  if (factor == 1.0f) return;
  for (size_t j = 0; j < padded_dim; j += kLanes) {
    hn::StoreU(hn::Mul(hn::LoadU(d, sums + j), shrink), d, sums + j);
  }
}

// Queries, scaled and interleaved, and everything else empty.
void start_unit(const AttentionUnit& unit, const RowTiles& tiles, const AttentionScratch& scratch) {
  const size_t dims = unit.head_dim;
  for (size_t tile = 0; tile < tiles.count; ++tile) {
    const size_t rows = tiles.size(tile);
    for (size_t r = 0; r < rows; ++r) {
      const size_t row = tiles.begin(tile) + r;
      const float* from = unit.q + row / unit.group * unit.q_stride + row % unit.group * dims;
      float* to = scratch.queries + tiles.begin(tile) * dims + r;
      for (size_t j = 0; j < dims; ++j) to[j * rows] = from[j] * unit.scale;
    }
  }
  std::fill_n(scratch.sums, unit.rows() * scratch.padded_dim, 0.0f);
  std::fill_n(scratch.maxima, unit.rows(), -std::numeric_limits<float>::infinity());
  std::fill_n(scratch.weights, unit.rows(), 0.0f);
  std::fill_n(scratch.zeros, dims, 0.0f);
  // Columns beyond head_dim in the last panel are multiplied along and must hold numbers.
  std::fill_n(scratch.values, panel_count(dims) * kValuePanel, 0.0f);
}

void finish_unit(const AttentionUnit& unit, const AttentionScratch& scratch) {
  for (size_t row = 0; row < unit.rows(); ++row) {
    const float* sums = scratch.sums + row * scratch.padded_dim;
    float* to = unit.y + row / unit.group * unit.y_stride + row % unit.group * unit.head_dim;
    const float weight = scratch.weights[row];
    for (size_t j = 0; j < unit.head_dim; ++j) to[j] = sums[j] / weight;
  }
}

void attend(const AttentionUnit& unit, float* memory) {
  const size_t dims = unit.head_dim;
  const size_t rows = unit.rows();
  const RowTiles tiles(rows, kTileRows);
  const AttentionScratch scratch(memory, rows, dims);
  start_unit(unit, tiles, scratch);
  for (size_t begin = 0; begin < unit.limit(rows - 1); begin += kKeyTile) {
    const size_t count = std::min(kKeyTile, unit.limit(rows - 1) - begin);
    fetch_tile(unit, begin, count, scratch);
    // Keys that a row sees in this tile; none for early rows in the last tiles.
    const auto visible = [&](size_t row) {
      const size_t limit = unit.limit(row);
      return limit <= begin ? size_t{0} : std::min(kKeyTile, limit - begin);
    };
    for (size_t tile = 0; tile < tiles.count; ++tile) {
      const size_t first = tiles.begin(tile);
      if (visible(tiles.begin(tile + 1) - 1) == 0) continue;
      multiply_tile<InterleavedRows>(tiles.size(tile),
                                     Product<float>{.a = scratch.queries + first * dims,
                                                    .a_row_stride = 0,
                                                    .b = scratch.keys,
                                                    .b_panel_stride = kPanelWidth * dims,
                                                    .c = scratch.scores + first * kKeyTile,
                                                    .c_row_stride = kKeyTile,
                                                    .c_panel_stride = kPanelWidth,
                                                    .panels = panel_count(count),
                                                    .depth = dims,
                                                    .accumulate = false});
    }
    size_t row = 0;
    while (row < rows && visible(row) == 0) ++row;
    while (row < rows) {
      // Neighbours that see the same keys are multiplied together.
      const size_t seen = visible(row);
      size_t end = row;
      for (; end < rows && end - row < kTileRows && visible(end) == seen; ++end) {
        update_row(scratch.scores + end * kKeyTile, seen, scratch.maxima + end,
                   scratch.weights + end, scratch.sums + end * scratch.padded_dim,
                   scratch.padded_dim);
      }
      multiply_tile<StridedRows>(end - row,
                                 Product<float>{.a = scratch.scores + row * kKeyTile,
                                                .a_row_stride = kKeyTile,
                                                .b = scratch.values,
                                                .b_panel_stride = kValuePanel,
                                                .c = scratch.sums + row * scratch.padded_dim,
                                                .c_row_stride = scratch.padded_dim,
                                                .c_panel_stride = kPanelWidth,
                                                .panels = scratch.padded_dim / kPanelWidth,
                                                .depth = seen,
                                                .accumulate = true});
      row = end;
    }
  }
  finish_unit(unit, scratch);
}

}  // namespace cogserve::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace cogserve::cpu {
namespace {

HWY_EXPORT(attend);

void attend_all(const std::vector<AttentionUnit>& units, Workspace& workspace, ThreadPool& pool) {
  size_t work = 0;
  size_t floats = 0;
  for (const AttentionUnit& unit : units) {
    work += unit.rows() * unit.limit(unit.rows() - 1) * unit.head_dim;
    floats = std::max(floats, AttentionScratch::floats(unit.rows(), unit.head_dim));
  }
  workspace.prepare_workers(floats);
  const size_t grain = work < kSerialAttention ? units.size() : 1;
  pool.parallel_for(units.size(), grain, [&](size_t begin, size_t end, int worker) {
    for (size_t i = begin; i < end; ++i) {
      HWY_DYNAMIC_DISPATCH(attend)(units[i], workspace.of_worker(worker));
    }
  });
}

}  // namespace

void paged_attention(const Tensor& q, int heads, std::span<const AttentionRun> runs,
                     std::span<const int32_t> block_tables, const KvLayer& kv, float scale,
                     const Tensor& y, Workspace& workspace, ThreadPool& pool) {
  const size_t head_dim = kv.head_dim;
  const size_t group = heads / kv.kv_heads;
  const size_t tokens_per_unit = std::max<size_t>(1, kQueryRows / group);
  const size_t head_elements = kv.block_size * head_dim;
  std::vector<AttentionUnit> units;
  for (const AttentionRun& run : runs) {
    const size_t count = run.row_count;
    for (size_t token = 0; token < count; token += tokens_per_unit) {
      for (int kv_head = 0; kv_head < kv.kv_heads; ++kv_head) {
        const size_t column = kv_head * group * head_dim;
        units.push_back(
            {.source = {.keys = static_cast<float*>(kv.keys) + kv_head * head_elements,
                        .values = static_cast<float*>(kv.values) + kv_head * head_elements,
                        .block_table = block_tables.data() + run.table_begin,
                        .block_size = static_cast<size_t>(kv.block_size),
                        .block_stride = kv.kv_heads * head_elements,
                        .row_stride = head_dim},
             .q = q.row<float>(run.row_begin + token) + column,
             .q_stride = static_cast<size_t>(q.row_stride),
             .y = y.row<float>(run.row_begin + token) + column,
             .y_stride = static_cast<size_t>(y.row_stride),
             .tokens = std::min(tokens_per_unit, count - token),
             .group = group,
             .head_dim = head_dim,
             .first_limit = run.first_index + token + 1,
             .limit_step = 1,
             .scale = scale});
      }
    }
  }
  attend_all(units, workspace, pool);
}

void dense_attention(const Tensor& qkv, int heads, int head_dim, float scale, const Tensor& y,
                     Workspace& workspace, ThreadPool& pool) {
  // One block holds all rows of the picture.
  static constexpr int32_t kOneBlock = 0;
  const size_t rows = qkv.rows;
  const size_t width = static_cast<size_t>(heads) * head_dim;
  std::vector<AttentionUnit> units;
  for (int head = 0; head < heads; ++head) {
    for (size_t row = 0; row < rows; row += kQueryRows) {
      const size_t column = static_cast<size_t>(head) * head_dim;
      units.push_back({.source = {.keys = qkv.row<float>(0) + width + column,
                                  .values = qkv.row<float>(0) + 2 * width + column,
                                  .block_table = &kOneBlock,
                                  .block_size = rows,
                                  .block_stride = 0,
                                  .row_stride = static_cast<size_t>(qkv.row_stride)},
                       .q = qkv.row<float>(row) + column,
                       .q_stride = static_cast<size_t>(qkv.row_stride),
                       .y = y.row<float>(row) + column,
                       .y_stride = static_cast<size_t>(y.row_stride),
                       .tokens = std::min(kQueryRows, rows - row),
                       .group = 1,
                       .head_dim = static_cast<size_t>(head_dim),
                       .first_limit = rows,
                       .limit_step = 0,
                       .scale = scale});
    }
  }
  attend_all(units, workspace, pool);
}

}  // namespace cogserve::cpu
#endif  // HWY_ONCE
