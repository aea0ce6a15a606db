// What an exception means to a caller: at the borders where it ends one request and no more.
#pragma once

#include "absl/status/status.h"

namespace cogserve {

// Of the exception that is being handled: RESOURCE_EXHAUSTED MEMORY where memory ran out, else
// INTERNAL. To be called in a catch block.
absl::Status status_of_exception();

}  // namespace cogserve
