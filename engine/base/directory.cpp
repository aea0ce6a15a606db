#include "engine/base/directory.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include "engine/base/error.hpp"

namespace cogserve {
namespace {

namespace fs = std::filesystem;

absl::Status unreadable(const std::string& directory, const std::error_code& error) {
  return make_error(
      absl::StatusCode::kFailedPrecondition, "DIRECTORY_READ", directory,
      directory + ": cannot be read: " + error.message() + "; give a directory that can be read");
}

}  // namespace

absl::StatusOr<std::vector<std::string>> list_directory(const std::string& directory) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    names.push_back(entry->path().filename().string());
  }
  if (error) return unreadable(directory, error);
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<DirectoryLock> DirectoryLock::take(const std::string& directory) {
  DirectoryLock lock(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (lock.descriptor_ < 0) {
    return unreadable(directory, std::error_code(errno, std::generic_category()));
  }
  if (::flock(lock.descriptor_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return lock;
  return make_error(absl::StatusCode::kFailedPrecondition, "DESTINATION_IN_USE", directory,
                    directory + ": another run is writing to it; wait until that has ended");
}

DirectoryLock::DirectoryLock(DirectoryLock&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)) {}

DirectoryLock::~DirectoryLock() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

}  // namespace cogserve
