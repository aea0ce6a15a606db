// Passes that were recorded as CUDA graphs, to be started by one call each.
//
// A decode pass launches the same kernels on the same tensors whenever it has the same number of
// rows; all that changes from step to step is read from the memory of PassArrays, whose address
// does not change. The first pass of each number of rows runs as it is, so that everything that is
// made on first use is there; the second is recorded, and it and all later ones are replays.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <map>
#include <memory>
#include <type_traits>

#include "absl/functional/function_ref.h"
#include "engine/backend/backend.hpp"
#include "engine/backend/cuda/device_memory.hpp"

namespace cogserve::cuda {

// How many rows a decode pass of `rows` rows is padded to.
int padded_rows(int rows);

// What the operations of a recorded pass asked of its arrays, to be asked of each replay's too.
struct PassLimits {
  int64_t token_ids = 0;  // ids are below it
  int64_t positions = 0;  // positions are below it
  KvLayer kv;             // layers are alike
};

class PassGraph {
 public:
  const PassLimits& limits() const { return limits_; }
  void launch(const Stream& stream) const;

 private:
  friend class PassGraphs;
  struct Destroy {
    void operator()(cudaGraphExec_t graph) const { cudaGraphExecDestroy(graph); }
  };

  std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, Destroy> graph_;
  PassLimits limits_;
};

class PassGraphs {
 public:
  // What becomes of a pass.
  enum class Way { kRun, kRecord, kReplay };

  // For a pass of `rows` rows. `pass` is PassInput::recurring; graphs of another pass, or that read
  // drawn ids from elsewhere, are dropped.
  Way way_of(uint64_t pass, int64_t rows, const int32_t* drawn_ids);

  // After kReplay.
  const PassGraph& find(int64_t rows) const { return graphs_.at(rows); }

  // After kRecord: notes what `pass` gives to the stream, none of which runs, and brings it to the
  // device. Throws CudaError if that cannot be done, and what `pass` throws; the stream is then as
  // it was.
  const PassGraph& record(int64_t rows, const Stream& stream, absl::FunctionRef<void()> pass);

  // While a pass is being recorded: where its operations leave their limits. Else null.
  PassLimits* recording() const { return recording_; }

  // Nothing is recorded from now on.
  void give_up();

 private:
  static constexpr size_t kMostGraphs = 64;

  std::map<int64_t, PassGraph> graphs_;  // by rows; seen once and not recorded yet: an empty one
  uint64_t pass_ = 0;
  const int32_t* drawn_ids_ = nullptr;
  PassLimits* recording_ = nullptr;
  bool given_up_ = false;
};

}  // namespace cogserve::cuda
