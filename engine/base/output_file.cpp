#include "engine/base/output_file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>

#include "engine/base/error.hpp"

namespace cogserve {
namespace {

constexpr char kPartial[] = ".partial";

}  // namespace

OutputFile::OutputFile(std::string path, int descriptor)
    : path_(std::move(path)), descriptor_(descriptor) {}

OutputFile::OutputFile(OutputFile&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

OutputFile::~OutputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

absl::StatusOr<OutputFile> OutputFile::create(const std::string& directory, std::string_view name) {
  const std::string path = (std::filesystem::path(directory) / name).string();
  OutputFile file(
      path, ::open((path + kPartial).c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (file.descriptor_ < 0) return file.failed("cannot be created");
  return file;
}

absl::Status OutputFile::failed(const char* what) const {
  const int error = errno;
  const bool full = error == ENOSPC || error == EDQUOT;
  return make_error(full ? absl::StatusCode::kResourceExhausted : absl::StatusCode::kInternal,
                    full ? "DISK_FULL" : "FILE_WRITE", path_,
                    path_ + ": " + what + ": " + std::strerror(error));
}

absl::Status OutputFile::append(const void* data, size_t bytes) {
  constexpr size_t kPiece = size_t{64} << 20;
  const auto* from = static_cast<const std::byte*>(data);
  while (bytes > 0) {
    const ssize_t written = ::write(descriptor_, from, std::min(bytes, kPiece));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return failed("cannot be written");
    from += written;
    bytes -= static_cast<size_t>(written);
  }
  return absl::OkStatus();
}

absl::Status OutputFile::finish() {
  if (::fsync(descriptor_) != 0) return failed("cannot be brought to the disk");
  if (::close(std::exchange(descriptor_, -1)) != 0) return failed("cannot be closed");
  if (std::rename((path_ + kPartial).c_str(), path_.c_str()) != 0) {
    return failed("cannot be given its name");
  }
  return absl::OkStatus();
}

absl::Status write_file(const std::string& directory, std::string_view name,
                        std::string_view content) {
  absl::StatusOr<OutputFile> file = OutputFile::create(directory, name);
  if (!file.ok()) return file.status();
  const absl::Status status = file->append(content.data(), content.size());
  return status.ok() ? file->finish() : status;
}

}  // namespace cogserve
