// The file with a load test's result. Opened before the load begins, so that a folder that cannot
// be written to costs no measurement. It gets its name when it is whole: until then an earlier file
// of that name stays, and a run that fails leaves nothing behind.
#pragma once

#include <filesystem>
#include <fstream>
#include <optional>
#include <string_view>

#include "client/error.hpp"

namespace cogserve::client {

class ResultFile {
 public:
  ResultFile() = default;
  ~ResultFile();
  ResultFile(const ResultFile&) = delete;
  ResultFile& operator=(const ResultFile&) = delete;

  // Makes the folders of `path` too. Once. The errors' reason is FILE_WRITE.
  std::optional<Error> open(const std::filesystem::path& path);

  // The whole content. Once, after open().
  std::optional<Error> write(std::string_view text);

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  std::filesystem::path unfinished_;  // empty where there is no such file
  std::ofstream file_;
};

}  // namespace cogserve::client
