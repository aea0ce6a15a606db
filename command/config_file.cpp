#include "command/config_file.hpp"

#include <yaml-cpp/yaml.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string_view>

#include "absl/status/status.h"
#include "engine/base/json.hpp"

namespace cogserve {
namespace {

constexpr size_t kMaxConfigBytes = 1 << 20;

absl::Status refuse(const std::string& path, const std::string& what) {
  return absl::InvalidArgumentError(path + ": " + what);
}

absl::StatusOr<std::string> read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return refuse(path, "cannot be opened");
  std::string text(kMaxConfigBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  if (file.bad()) return refuse(path, "cannot be read");
  if (text.size() > kMaxConfigBytes) return refuse(path, "is larger than 1 MiB");
  return text;
}

absl::Status wrong_shape(const std::string& path, const std::string& key) {
  return refuse(path, key + ": wants a plain value or a list of plain values");
}

absl::StatusOr<std::vector<ConfigEntry>> read_yaml(const std::string& path,
                                                   const std::string& text) {
  std::vector<ConfigEntry> entries;
  try {
    const YAML::Node root = YAML::Load(text);
    if (root.IsNull()) return entries;
    if (!root.IsMap()) return refuse(path, "wants a map of flag names to values");
    for (const auto& item : root) {
      ConfigEntry entry(item.first.as<std::string>(), {});
      if (!item.second.IsScalar() && !item.second.IsSequence())
        return wrong_shape(path, entry.first);
      if (item.second.IsScalar()) entry.second.push_back(item.second.Scalar());
      for (const YAML::Node& element : item.second) {
        if (!element.IsScalar()) return wrong_shape(path, entry.first);
        entry.second.push_back(element.Scalar());
      }
      entries.push_back(std::move(entry));
    }
  } catch (const YAML::Exception& error) {
    return refuse(path, error.what());
  }
  return entries;
}

absl::StatusOr<std::vector<ConfigEntry>> read_json(const std::string& path,
                                                   const std::string& text) {
  absl::StatusOr<nlohmann::json> root = parse_json(text);
  if (!root.ok()) return refuse(path, std::string(root.status().message()));
  if (!root->is_object()) return refuse(path, "wants an object of flag names to values");
  const auto plain = [](const nlohmann::json& value) {
    return value.is_string() ? value.get<std::string>() : value.dump();
  };
  std::vector<ConfigEntry> entries;
  for (const auto& [key, value] : root->items()) {
    ConfigEntry entry(key, {});
    if (value.is_object() || value.is_null()) return wrong_shape(path, key);
    if (!value.is_array()) entry.second.push_back(plain(value));
    if (value.is_array()) {
      for (const nlohmann::json& element : value) {
        if (element.is_structured() || element.is_null()) return wrong_shape(path, key);
        entry.second.push_back(plain(element));
      }
    }
    entries.push_back(std::move(entry));
  }
  return entries;
}

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

}  // namespace

absl::StatusOr<std::vector<ConfigEntry>> read_config_file(const std::string& path) {
  absl::StatusOr<std::string> text = read_text(path);
  if (!text.ok()) return text.status();
  return ends_with(path, ".json") ? read_json(path, *text) : read_yaml(path, *text);
}

}  // namespace cogserve
