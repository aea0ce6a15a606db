#include "client/bench/result_file.hpp"

#include <cerrno>
#include <cstring>
#include <string>
#include <system_error>
#include <utility>

namespace cogserve::client {
namespace {

namespace fs = std::filesystem;

Error write_error(const fs::path& path, const std::string& why) {
  return {.code = Code::kInvalidArgument,
          .reason = "FILE_WRITE",
          .field = "--result-dir",
          .message = "cannot write " + path.string() + ": " + why};
}

}  // namespace

ResultFile::~ResultFile() {
  std::error_code ignored;
  if (!unfinished_.empty() && unfinished_ != path_) fs::remove(unfinished_, ignored);
}

std::optional<Error> ResultFile::open(const fs::path& path) {
  path_ = path;
  std::error_code error;
  if (path.has_parent_path()) fs::create_directories(path.parent_path(), error);
  if (error) return write_error(path.parent_path(), error.message());
  if (fs::is_directory(path, error)) return write_error(path, "is a directory");
  // A link stays one; what is no file, like /dev/stdout, is written to as it is.
  const bool is_file = !fs::exists(path, error) || fs::is_regular_file(path, error);
  if (is_file) path_ = fs::weakly_canonical(path, error);
  fs::path unfinished = path_;
  if (is_file) unfinished += ".unfinished";
  file_.open(unfinished, std::ios::binary);
  if (!file_) return write_error(unfinished, std::strerror(errno));
  unfinished_ = std::move(unfinished);
  return std::nullopt;
}

std::optional<Error> ResultFile::write(std::string_view text) {
  file_ << text;
  file_.close();
  if (!file_) return write_error(path_, std::strerror(errno));
  std::error_code error;
  if (unfinished_ != path_) fs::rename(unfinished_, path_, error);
  if (error) return write_error(path_, error.message());
  unfinished_.clear();
  return std::nullopt;
}

}  // namespace cogserve::client
