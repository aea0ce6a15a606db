// The arrays that tell the paged attention kernels which rows belong together: planned on the host,
// packed into a parcel, and read on the device by every layer.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "engine/backend/backend.hpp"
#include "engine/backend/cuda/attention_plan.hpp"
#include "engine/backend/cuda/paged_attention.hpp"
#include "engine/backend/cuda/staging.hpp"

namespace cogserve::cuda {

// Kept from step to step, so that a steady state allocates nothing.
class AttentionArrays {
 public:
  // Plans `runs` and adds the arrays to `parcel`. `on_tensor_cores`: for the kernels that split and
  // tile, else for the one that takes any head size. A row whose splits do not fit into
  // `scratch_bytes` is refused (InvariantError).
  void pack(std::span<const AttentionRun> runs, std::span<const int32_t> block_tables,
            const HeadShape& heads, bool on_tensor_cores, size_t scratch_bytes, Parcel* parcel);

  bool on_tensor_cores() const { return on_tensor_cores_; }
  // Whether the kernels' launches say nothing but how many rows there are, given that each run is
  // one row.
  bool recurs() const { return plan_.waves.size() <= 1; }

  // Launches the kernels for one layer. `sent`: where the device has the parcel. The block tables
  // of `attention` are set here. `split_grid` 0: a block for each split.
  void attend(PagedAttention attention, const std::byte* sent, int split_grid, float* scratch,
              cudaStream_t stream) const;

 private:
  bool on_tensor_cores_ = false;
  std::vector<PlannedRun> runs_;
  AttentionPlan plan_;
  std::vector<int32_t> split_counts_;
  std::vector<SingleRow> single_rows_;
  // Within the parcel, in bytes.
  size_t tiles_at_ = 0;
  size_t splits_at_ = 0;
  size_t merges_at_ = 0;
  size_t split_counts_at_ = 0;  // [waves]
  size_t single_rows_at_ = 0;
};

}  // namespace cogserve::cuda
