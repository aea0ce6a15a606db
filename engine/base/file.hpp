// Files of a model directory, opened so that nothing outside the directory is ever read.
//
// Pure functions and one move-only value; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace cogserve {

// `directory`/`name` with every symbolic link followed. `name` must be a plain file name (no '/',
// not "." or ".."), and what it leads to must lie below the directory.
// NOT_FOUND / FILE_NOT_FOUND, INVALID_ARGUMENT / FILE_NAME or FILE_OUTSIDE.
absl::StatusOr<std::string> resolve_file(const std::string& directory, std::string_view name);

// The whole content of a regular file of at most `max_bytes`.
// As resolve_file, and INVALID_ARGUMENT / FILE_TYPE or FILE_SIZE, DATA_LOSS / FILE_READ.
absl::StatusOr<std::string> read_file(const std::string& directory, std::string_view name,
                                      size_t max_bytes);

// A regular file mapped read only for one pass from front to back.
class MappedFile {
 public:
  // Errors as read_file, without a size limit.
  static absl::StatusOr<MappedFile> open(const std::string& directory, std::string_view name);

  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }

  // DATA_LOSS / FILE_CHANGED if the file is now shorter than what was mapped: touching a page past
  // its end would kill the process, so ask before each tensor is read.
  absl::Status check_size() const;

  // Gives the pages of [offset, offset + count) back to the system; they can be read again.
  void release(size_t offset, size_t count) const;

 private:
  void swap(MappedFile& other) noexcept;

  std::string path_;
  int descriptor_ = -1;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace cogserve
