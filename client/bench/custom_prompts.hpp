// A user's own questions and pictures for a load test.
#pragma once

#include <string>
#include <vector>

#include "client/error.hpp"

namespace cogserve::client {

// One line of a custom data set.
struct CustomPrompt {
  std::string question;
  std::string image_path;
};

// JSON lines {"prompt": text, "image": path} (or "image_files": [path]); paths are relative to the
// file. The error's message has the line number.
Result<std::vector<CustomPrompt>> read_custom_prompts(const std::string& path);

}  // namespace cogserve::client
