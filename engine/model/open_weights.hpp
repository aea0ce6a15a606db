// The source of a model's weights that a configuration names.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/config.hpp"
#include "engine/model/weight_source.hpp"

namespace cogserve {

// The checkpoint in config.model_dir, or random weights. Errors are those of Checkpoint::open.
absl::StatusOr<std::unique_ptr<WeightSource>> open_weights(const EngineConfig& config,
                                                           const ModelConfig& model);

}  // namespace cogserve
