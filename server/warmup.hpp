// One text, one picture and the engine's decode_batches of texts through it, before the first
// caller pays for cold caches and for what a device chooses and records.
#pragma once

#include <functional>

#include "absl/status/status.h"
#include "engine/engine.hpp"

namespace cogserve {

// Blocks, and calls `wait_a_little` over and over meanwhile; if that does not return, neither does
// this. An error is the engine's own.
absl::Status warm_up(Engine& engine, const std::function<void()>& wait_a_little);

}  // namespace cogserve
