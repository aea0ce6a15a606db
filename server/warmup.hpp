// One text and one picture through the engine, before the first caller pays for cold caches.
#pragma once

#include <functional>

#include "absl/status/status.h"
#include "engine/engine.hpp"

namespace cogserve {

// Blocks, and calls `wait_a_little` over and over meanwhile. An error is the engine's own.
absl::Status warm_up(Engine& engine, const std::function<void()>& wait_a_little);

}  // namespace cogserve
