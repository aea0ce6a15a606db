#include "engine/model/open_weights.hpp"

#include <utility>

#include "engine/model/checkpoint.hpp"
#include "engine/model/dummy_weights.hpp"

namespace cogserve {

absl::StatusOr<std::unique_ptr<WeightSource>> open_weights(const EngineConfig& config,
                                                           const ModelConfig& model) {
  if (config.load_format == LoadFormat::kDummy) {
    return std::make_unique<DummyWeights>(config.seed, dummy_dtype(model.dtype));
  }
  auto checkpoint = Checkpoint::open(config.model_dir, model.quantization);
  if (!checkpoint.ok()) return checkpoint.status();
  return std::make_unique<Checkpoint>(*std::move(checkpoint));
}

}  // namespace cogserve
