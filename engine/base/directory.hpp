// What is in a directory, and whose turn it is to write there.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace cogserve {

// The names in a directory, sorted. FAILED_PRECONDITION / DIRECTORY_READ.
absl::StatusOr<std::vector<std::string>> list_directory(const std::string& directory);

// Keeps a second run out of a directory until this object goes or the process dies. The directory
// itself is locked: its files are replaced by renaming, which would leave a lock behind.
class DirectoryLock {
 public:
  // FAILED_PRECONDITION: DIRECTORY_READ, and DESTINATION_IN_USE where it is taken. A network file
  // system that cannot lock a directory keeps nobody out.
  static absl::StatusOr<DirectoryLock> take(const std::string& directory);

  DirectoryLock(DirectoryLock&& other) noexcept;
  DirectoryLock& operator=(DirectoryLock&&) = delete;
  ~DirectoryLock();

 private:
  explicit DirectoryLock(int descriptor) : descriptor_(descriptor) {}

  int descriptor_;
};

}  // namespace cogserve
