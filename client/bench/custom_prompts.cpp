#include "client/bench/custom_prompts.hpp"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "client/commands/files.hpp"

namespace cogserve::client {
namespace {

Error line_error(const std::string& path, size_t line, const std::string& why) {
  return {.code = Code::kInvalidArgument,
          .reason = "DATASET",
          .field = "--dataset-path",
          .message = path + " line " + std::to_string(line) + ": " + why};
}

}  // namespace

Result<std::vector<CustomPrompt>> read_custom_prompts(const std::string& path) {
  auto bytes = read_file(path);
  if (!bytes.ok()) return bytes.error();
  const auto folder = std::filesystem::path(path).parent_path();
  std::vector<CustomPrompt> prompts;
  std::istringstream lines(*bytes);
  size_t number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object()) return line_error(path, number, "is not a JSON object");
    if (!json.contains("prompt") || !json["prompt"].is_string()) {
      return line_error(path, number, "has no text \"prompt\"");
    }
    CustomPrompt prompt{json["prompt"], ""};
    if (json.contains("image") && json["image"].is_string()) {
      prompt.image_path = folder / json["image"].get<std::string>();
    } else if (json.contains("image_files") && json["image_files"].is_array() &&
               json["image_files"].size() == 1 && json["image_files"][0].is_string()) {
      prompt.image_path = folder / json["image_files"][0].get<std::string>();
    } else if (json.contains("image") || json.contains("image_files")) {
      return line_error(path, number, "\"image\" wants one path");
    }
    prompts.push_back(std::move(prompt));
  }
  if (prompts.empty()) return line_error(path, number, "no prompts");
  return prompts;
}

}  // namespace cogserve::client
