// From a dense checkpoint's directory to a quantised one in the native layout
// (engine/model/native_layout.hpp): what `cogserve quantize` does.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/config.hpp"

namespace cogserve {

struct QuantizeOptions {
  std::string source;
  std::string destination;  // made if it is not there
  WeightFormats formats = {};
  int threads = 0;                      // 0 = one for each core
  int64_t shard_bytes = 4'900'000'000;  // most of one file's tensors
};

// What became of one quantised matrix.
struct QuantizedTensor {
  std::string name;
  WeightFormat format;
  double relative_error;  // sqrt(sum (W - Q)^2 / sum W^2)
};

struct QuantizeReport {
  std::vector<QuantizedTensor> tensors;  // in the order of the files
  int64_t bytes_before = 0;              // of all tensors
  int64_t bytes_after = 0;
  int shards = 0;
  int shards_kept = 0;  // of an earlier run
  // Files of an earlier run that were not what the source gives, each with what was found.
  std::vector<std::string> shards_replaced;
};

// Holds one matrix at a time. A destination that has been begun with the same formats and the same
// source, by its files' sizes and times of change, is completed: a file that is what the source
// gives is kept, any other removed and written anew. Another destination that is not empty is
// refused: FAILED_PRECONDITION / DESTINATION; one that another run is writing to:
// DESTINATION_IN_USE. The config.json is written last, and removed before any other file is, so
// that half a checkpoint cannot be served; small files are copied first, so that one that cannot be
// read costs no work. Also writes the report, as quantization_report.json. `progress` gets bytes of
// the source. Other errors are those of Checkpoint, QuantizedMatrix, OutputFile and
// `base/directory.hpp`.
absl::StatusOr<QuantizeReport> quantize_checkpoint(
    const QuantizeOptions& options,
    const std::function<void(int64_t done, int64_t total)>& progress);

}  // namespace cogserve
