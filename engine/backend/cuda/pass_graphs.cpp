#include "engine/backend/cuda/pass_graphs.hpp"

#include <algorithm>
#include <iterator>

#include "absl/cleanup/cleanup.h"
#include "engine/backend/cuda/error.hpp"

namespace cogserve::cuda {
namespace {

// Up to 8 rows a pass reads each weight once whatever their number, so few buckets do.
constexpr int kBuckets[] = {1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128};
constexpr int kStep = 64;  // between buckets beyond

struct DestroyGraph {
  void operator()(cudaGraph_t graph) const { cudaGraphDestroy(graph); }
};
using Captured = std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, DestroyGraph>;

// check_cuda for a step that a pass can do without: the next launch is not to report its error.
void check_step(cudaError_t error, const char* call) {
  if (error != cudaSuccess) cudaGetLastError();
  check_cuda(error, call);
}

// Whatever happens, the stream does not stay in capture.
Captured capture(const Stream& stream, absl::FunctionRef<void()> pass) {
  check_cuda(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal),
             "cudaStreamBeginCapture");
  absl::Cleanup abandon = [&] {
    cudaGraph_t graph = nullptr;
    cudaStreamEndCapture(stream.get(), &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    cudaGetLastError();  // it is not to be reported again by the next launch
  };
  pass();
  std::move(abandon).Cancel();
  cudaGraph_t graph = nullptr;
  const cudaError_t error = cudaStreamEndCapture(stream.get(), &graph);
  Captured captured(graph);
  check_step(error, "cudaStreamEndCapture");
  return captured;
}

}  // namespace

int padded_rows(int rows) {
  const auto* const bucket = std::lower_bound(std::begin(kBuckets), std::end(kBuckets), rows);
  return bucket != std::end(kBuckets) ? *bucket : (rows + kStep - 1) / kStep * kStep;
}

void PassGraph::launch(const Stream& stream) const {
  check_cuda(cudaGraphLaunch(graph_.get(), stream.get()), "cudaGraphLaunch");
}

PassGraphs::Way PassGraphs::way_of(uint64_t pass, int64_t rows, const int32_t* drawn_ids) {
  if (pass != pass_ || drawn_ids != drawn_ids_) {
    graphs_.clear();
    pass_ = pass;
    drawn_ids_ = drawn_ids;
  }
  const auto found = graphs_.find(rows);
  if (found != graphs_.end()) return found->second.graph_ ? Way::kReplay : Way::kRecord;
  if (!given_up_ && graphs_.size() < kMostGraphs) graphs_.emplace(rows, PassGraph());
  return Way::kRun;
}

const PassGraph& PassGraphs::record(int64_t rows, const Stream& stream,
                                    absl::FunctionRef<void()> pass) {
  PassGraph recorded;
  recording_ = &recorded.limits_;
  const absl::Cleanup end = [this] { recording_ = nullptr; };
  const Captured captured = capture(stream, pass);
  cudaGraphExec_t graph = nullptr;
  const cudaError_t error = cudaGraphInstantiate(&graph, captured.get(), 0);
  recorded.graph_.reset(graph);
  check_step(error, "cudaGraphInstantiate");
  // Else the first launch would do it, and find no memory where nothing takes the graph's place.
  check_step(cudaGraphUpload(recorded.graph_.get(), stream.get()), "cudaGraphUpload");
  return graphs_.insert_or_assign(rows, std::move(recorded)).first->second;
}

void PassGraphs::give_up() {
  given_up_ = true;
  std::erase_if(graphs_, [](const auto& entry) { return entry.second.graph_ == nullptr; });
}

}  // namespace cogserve::cuda
