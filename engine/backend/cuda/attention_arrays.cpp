#include "engine/backend/cuda/attention_arrays.hpp"

namespace cogserve::cuda {
namespace {

template <typename T>
size_t reserve(const std::vector<T>& array, Parcel* parcel) {
  return parcel->reserve(array.size() * sizeof(T));
}

template <typename T>
void put(const std::vector<T>& array, size_t at, Parcel* parcel) {
  parcel->put(at, std::span<const T>(array));
}

template <typename T>
void shift_tables(int by, std::vector<T>* array) {
  for (T& item : *array) item.table_begin += by;
}

}  // namespace

// Arrays whose size depends on the number of rows alone come first, so that they, and where the
// splits begin, stay in place from step to step; block tables are addressed from the parcel's
// begin, so that they may lie anywhere.
void AttentionArrays::pack(std::span<const AttentionRun> runs,
                           std::span<const int32_t> block_tables, const HeadShape& heads,
                           bool on_tensor_cores, size_t scratch_bytes, Parcel* parcel) {
  on_tensor_cores_ = on_tensor_cores;
  runs_.clear();
  for (const AttentionRun& run : runs) {
    runs_.push_back({run.row_begin, run.row_count, run.first_index, run.table_begin});
  }
  plan_.clear();
  single_rows_.clear();
  if (on_tensor_cores) {
    const size_t split = split_bytes(heads.query_heads, heads.head_dim);
    plan_attention(runs_, kPrefillRows / (heads.query_heads / heads.kv_heads),
                   static_cast<int>(scratch_bytes / split), &plan_);
  } else {
    plan_single_rows(runs_, &single_rows_);
  }
  split_counts_.clear();
  for (const DecodeWave& wave : plan_.waves) split_counts_.push_back(wave.splits);
  split_counts_at_ = reserve(split_counts_, parcel);
  merges_at_ = reserve(plan_.merges, parcel);
  single_rows_at_ = reserve(single_rows_, parcel);
  tiles_at_ = reserve(plan_.tiles, parcel);
  splits_at_ = reserve(plan_.splits, parcel);
  const int tables_begin = static_cast<int>(parcel->add(block_tables) / sizeof(int32_t));
  shift_tables(tables_begin, &plan_.tiles);
  shift_tables(tables_begin, &plan_.splits);
  shift_tables(tables_begin, &single_rows_);
  put(split_counts_, split_counts_at_, parcel);
  put(plan_.merges, merges_at_, parcel);
  put(single_rows_, single_rows_at_, parcel);
  put(plan_.tiles, tiles_at_, parcel);
  put(plan_.splits, splits_at_, parcel);
}

void AttentionArrays::attend(PagedAttention attention, const std::byte* sent, int split_grid,
                             float* scratch, cudaStream_t stream) const {
  attention.block_tables = Staging::at<int32_t>(sent, 0);
  attend_single_rows(attention, Staging::at<SingleRow>(sent, single_rows_at_),
                     static_cast<int>(single_rows_.size()), stream);
  attend_prefill(attention, Staging::at<PrefillTile>(sent, tiles_at_),
                 static_cast<int>(plan_.tiles.size()), stream);
  for (size_t i = 0; i < plan_.waves.size(); ++i) {
    const DecodeWave& wave = plan_.waves[i];
    const DecodeWaveArrays arrays = {Staging::at<DecodeSplit>(sent, splits_at_) + wave.split_begin,
                                     Staging::at<int32_t>(sent, split_counts_at_) + i,
                                     Staging::at<DecodeMerge>(sent, merges_at_) + wave.merge_begin,
                                     wave.merges, split_grid > 0 ? split_grid : wave.splits};
    attend_decode(attention, arrays, scratch, stream);
  }
}

}  // namespace cogserve::cuda
