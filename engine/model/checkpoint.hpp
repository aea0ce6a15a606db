// A checkpoint in the published layout: `model.safetensors`, or the shards that
// `model.safetensors.index.json` names. Memory-mapped, read only; no other format is ever opened.
//
// Owned by the start-up code until the weights are loaded.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/base/file.hpp"
#include "engine/config.hpp"
#include "engine/model/packed_matrix.hpp"
#include "engine/model/safetensors.hpp"
#include "engine/model/weight_source.hpp"

namespace cogserve {

class Checkpoint : public WeightSource {
 public:
  // Opens every shard and checks its header, and the index against the shards. Beside the reasons
  // of `safetensors.hpp`: CHECKPOINT_NOT_FOUND, CHECKPOINT_FORMAT (only pickles or GGUF there),
  // CHECKPOINT_INDEX, CHECKPOINT_DUPLICATE_TENSOR, and those of `base/file.hpp`.
  // `label` is what config.json says of quantised weights.
  static absl::StatusOr<Checkpoint> open(const std::string& directory,
                                         const QuantizationConfig& label = {});

  absl::StatusOr<StoredTensor> require(const std::string& name,
                                       const std::vector<int64_t>& shape) override;
  absl::StatusOr<StoredTensor> require_weight(const std::string& name,
                                              const std::vector<int64_t>& shape) override;
  // `*.rotary_emb.inv_freq` may be left over: it says nothing beyond rope_theta. So may a bias of
  // zeros beside a quantised matrix that needs none: writers of GPTQ's layout add it.
  // CHECKPOINT_QUANT_LABEL if config.json says that there are quantised weights and none is there.
  absl::Status finish() const override;
  absl::StatusOr<HostTensor> read(const StoredTensor& tensor) override;
  // A quantised matrix is unpacked; only one at a time is held.
  absl::StatusOr<HostWeight> read_weight(const StoredTensor& tensor) override;
  void release(const StoredTensor& tensor) override;

  std::string file_of(const StoredTensor& tensor) const override;

  // "bitsandbytes nf4, nested scales: 448 matrices; dense: 67"
  std::string description() const override;

 private:
  struct Shard {
    std::string path;
    MappedFile file;
    std::vector<SafetensorsEntry> entries;
  };

  absl::Status open_shard(const std::string& directory, const std::string& name);
  absl::Status index_tensors();

  std::optional<StoredPart> find_part(const std::string& name) const;
  bool is_spare_bias(const SafetensorsEntry& entry, const Shard& shard) const;
  // Before a tensor is touched: CHECKPOINT_TRUNCATED if a file has shrunk.
  absl::Status check_sizes(const std::string& tensor) const;

  const Shard& shard_of(const StoredTensor& tensor, const SafetensorsEntry** entry) const;

  std::string directory_;
  std::vector<Shard> shards_;
  // Tensor -> its place: the shard's number << 32 | the entry's number.
  std::unordered_map<std::string, int64_t> places_;
  std::unordered_set<std::string> required_;

  QuantizationConfig label_;
  std::unordered_map<std::string, std::unique_ptr<PackedMatrix>> packed_;  // by "NAME.weight"
  std::unordered_set<std::string> dense_matrices_;
  UnpackedWeight unpacked_;  // of the matrix that was read last
};

}  // namespace cogserve
