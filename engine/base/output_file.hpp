// A file that appears whole or not at all: written as NAME.partial, renamed when it is complete.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace cogserve {

// What is written but not finished stays behind as NAME.partial, and is overwritten the next time.
// Errors: RESOURCE_EXHAUSTED / DISK_FULL, INTERNAL / FILE_WRITE; both name the file.
class OutputFile {
 public:
  static absl::StatusOr<OutputFile> create(const std::string& directory, std::string_view name);

  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&&) = delete;
  ~OutputFile();

  absl::Status append(const void* data, size_t bytes);

  // To the disk, then under its own name.
  absl::Status finish();

 private:
  OutputFile(std::string path, int descriptor);

  absl::Status failed(const char* what) const;

  std::string path_;  // without ".partial"
  int descriptor_;
};

// A small file in one go.
absl::Status write_file(const std::string& directory, std::string_view name,
                        std::string_view content);

}  // namespace cogserve
