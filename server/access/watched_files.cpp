#include "server/access/watched_files.hpp"

#include <filesystem>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"

namespace cogserve {
namespace {

absl::StatusOr<std::string> read_small_file(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) {  // of a pipe no end may ever come
    return absl::InvalidArgumentError(absl::StrCat(path, ": cannot be read"));
  }
  std::ifstream file(path, std::ios::binary);
  std::string text(WatchedFiles::kMaxFileBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (!file.is_open() || file.bad()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": cannot be read"));
  }
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.size() > WatchedFiles::kMaxFileBytes) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": has more than 1 MiB"));
  }
  return text;
}

absl::StatusOr<std::vector<std::string>> read_all(const std::vector<std::string>& paths) {
  std::vector<std::string> contents;
  for (const std::string& path : paths) {
    absl::StatusOr<std::string> text = read_small_file(path);
    if (!text.ok()) return text.status();
    contents.push_back(*std::move(text));
  }
  return contents;
}

}  // namespace

absl::StatusOr<std::optional<std::vector<std::string>>> WatchedFiles::look() {
  absl::StatusOr<std::vector<std::string>> contents = read_all(paths_);
  const bool settled = !seen_.has_value() || change_ == contents;
  change_ = contents;
  if (seen_ == contents || !settled) return std::nullopt;
  seen_ = contents;
  if (!contents.ok()) return contents.status();
  return *std::move(contents);
}

}  // namespace cogserve
