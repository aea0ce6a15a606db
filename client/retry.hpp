// When a failed call is tried again. Pure functions: the clock and the randomness are the caller's.
#pragma once

#include <chrono>
#include <optional>

#include "client/error.hpp"

namespace cogserve::client {

// How long to wait before attempt `attempt` + 1 (attempts count from 0), or nothing where another
// try cannot help or `retries` is used up. Only UNAVAILABLE, and RESOURCE_EXHAUSTED with a delay
// from the server, are worth another try; the caller must not ask after a token has arrived.
// Without a delay from the server: 100 ms doubled with each attempt, at most 5 s; with one at most
// a day. `jitter` in [0, 1) spreads callers over a further quarter of the delay.
std::optional<std::chrono::milliseconds> retry_delay(const Error& error, int attempt, int retries,
                                                     double jitter);

}  // namespace cogserve::client
