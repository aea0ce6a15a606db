// One text and one picture through the engine, before the first caller pays for cold caches.
#pragma once

#include "absl/status/status.h"
#include "engine/engine.hpp"

namespace cogserve {

// Blocks. An error is the engine's own.
absl::Status warm_up(Engine& engine);

}  // namespace cogserve
