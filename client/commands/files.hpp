// Whole files in and out.
#pragma once

#include <string>

#include "client/error.hpp"

namespace cogserve::client {

// The bytes of `path`, or of stdin for "-". The error's reason is FILE_READ.
Result<std::string> read_file(const std::string& path);

}  // namespace cogserve::client
