// A checkpoint in the published layout: `model.safetensors`, or the shards that
// `model.safetensors.index.json` names. Memory-mapped, read only; no other format is ever opened.
//
// Owned by the start-up code until the weights are loaded.
#pragma once

#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/base/file.hpp"
#include "engine/model/safetensors.hpp"
#include "engine/model/weight_source.hpp"

namespace cogserve {

class Checkpoint : public WeightSource {
 public:
  // Opens every shard and checks its header, and the index against the shards. Beside the reasons
  // of `safetensors.hpp`: CHECKPOINT_NOT_FOUND, CHECKPOINT_FORMAT (only pickles or GGUF there),
  // CHECKPOINT_INDEX, CHECKPOINT_DUPLICATE_TENSOR, and those of `base/file.hpp`.
  static absl::StatusOr<Checkpoint> open(const std::string& directory);

  absl::StatusOr<StoredTensor> require(const std::string& name,
                                       const std::vector<int64_t>& shape) override;
  // `*.rotary_emb.inv_freq` may be left over: it says nothing beyond rope_theta.
  absl::Status finish() const override;
  absl::StatusOr<HostTensor> read(const StoredTensor& tensor) override;
  void release(const StoredTensor& tensor) override;

 private:
  struct Shard {
    std::string path;
    MappedFile file;
    std::vector<SafetensorsEntry> entries;
  };

  absl::Status open_shard(const std::string& directory, const std::string& name);
  absl::Status index_tensors();

  const Shard& shard_of(const StoredTensor& tensor, const SafetensorsEntry** entry) const;

  std::string directory_;
  std::vector<Shard> shards_;
  // Tensor -> its place: the shard's number << 32 | the entry's number.
  std::unordered_map<std::string, int64_t> places_;
  std::unordered_set<std::string> required_;
};

}  // namespace cogserve
