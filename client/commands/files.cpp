#include "client/commands/files.hpp"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>

namespace cogserve::client {
namespace {

Error read_error(const std::string& path, const std::string& why) {
  return {.code = Code::kInvalidArgument,
          .reason = "FILE_READ",
          .message = "cannot read " + path + ": " + why};
}

}  // namespace

Result<std::string> read_file(const std::string& path) {
  std::ostringstream bytes;
  if (path == "-") {
    bytes << std::cin.rdbuf();
  } else {
    std::error_code ignored;
    if (std::filesystem::is_directory(path, ignored)) return read_error(path, "is a directory");
    std::ifstream file(path, std::ios::binary);
    if (!file) return read_error(path, std::strerror(errno));
    bytes << file.rdbuf();
  }
  std::string content = std::move(bytes).str();
  if (content.empty()) return read_error(path, "it is empty");
  return content;
}

}  // namespace cogserve::client
