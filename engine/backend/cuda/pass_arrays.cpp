#include "engine/backend/cuda/pass_arrays.hpp"

namespace cogserve::cuda {
namespace {

bool same(std::span<const std::byte> a, std::span<const std::byte> b) {
  return a.data() == b.data() && a.size() == b.size();
}

}  // namespace

void PassArrays::begin(const PassInput& input, size_t scratch_bytes, const std::byte* device,
                       Parcel* parcel) {
  end();
  device_ = device;
  add(input.token_ids, parcel);
  add(input.positions, parcel);
  add(input.slots, parcel);
  add(input.logit_rows, parcel);
  const HeadShape heads = {input.heads, input.kv_heads, input.head_dim};
  attention_.pack(input.runs, input.block_tables, heads, has_tensor_core_kernel(heads),
                  scratch_bytes, parcel);
  runs_ = std::as_bytes(input.runs);
  block_tables_ = std::as_bytes(input.block_tables);
}

void PassArrays::end() {
  copies_.clear();
  runs_ = {};
  block_tables_ = {};
}

const std::byte* PassArrays::find_bytes(std::span<const std::byte> array) const {
  if (array.empty()) return nullptr;
  for (const Copy& copy : copies_) {
    const std::byte* const end = copy.host.data() + copy.host.size();
    if (array.data() < copy.host.data() || array.data() + array.size() > end) continue;
    return device_ + copy.at + (array.data() - copy.host.data());
  }
  return nullptr;
}

const AttentionArrays* PassArrays::find_attention(std::span<const AttentionRun> runs,
                                                  std::span<const int32_t> block_tables,
                                                  bool on_tensor_cores) const {
  const bool ours = !runs_.empty() && same(std::as_bytes(runs), runs_) &&
                    same(std::as_bytes(block_tables), block_tables_);
  return ours && on_tensor_cores == attention_.on_tensor_cores() ? &attention_ : nullptr;
}

}  // namespace cogserve::cuda
