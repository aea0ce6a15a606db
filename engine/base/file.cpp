#include "engine/base/file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/error.hpp"

namespace cogserve {
namespace {

namespace fs = std::filesystem;

std::string join(const std::string& directory, std::string_view name) {
  return (fs::path(directory) / name).string();
}

bool is_plain_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos;
}

// Closes what it holds.
class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  Descriptor(Descriptor&& other) noexcept : value_(std::exchange(other.value_, -1)) {}
  Descriptor& operator=(Descriptor&&) = delete;
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  int get() const { return value_; }
  int release() { return std::exchange(value_, -1); }

 private:
  int value_;
};

struct OpenFile {
  Descriptor descriptor;
  size_t size;
};

absl::StatusOr<OpenFile> open_regular(const std::string& path) {
  // Without O_NONBLOCK a FIFO in the directory would hold the start for ever.
  Descriptor descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  struct stat status {};
  if (descriptor.get() < 0 || ::fstat(descriptor.get(), &status) != 0) {
    return make_error(absl::StatusCode::kNotFound, "FILE_NOT_FOUND", path,
                      path + ": cannot be opened: " + std::strerror(errno));
  }
  if (!S_ISREG(status.st_mode)) {
    return invalid_argument("FILE_TYPE", path, path + ": not a regular file");
  }
  return OpenFile{std::move(descriptor), static_cast<size_t>(status.st_size)};
}

}  // namespace

absl::StatusOr<std::string> resolve_file(const std::string& directory, std::string_view name) {
  if (!is_plain_name(name)) {
    return invalid_argument("FILE_NAME", "",
                            absl::StrCat("'", std::string(name),
                                         "' is not a plain file name inside the model directory"));
  }
  const std::string path = join(directory, name);
  std::error_code error;
  const fs::path root = fs::canonical(directory, error);
  if (error) {
    return make_error(absl::StatusCode::kNotFound, "FILE_NOT_FOUND", directory,
                      directory + ": " + error.message());
  }
  const fs::path target = fs::canonical(path, error);
  if (error) {
    return make_error(absl::StatusCode::kNotFound, "FILE_NOT_FOUND", path,
                      path + ": " + error.message());
  }
  const fs::path inside = target.lexically_relative(root);
  if (inside.empty() || *inside.begin() == "..") {
    return invalid_argument(
        "FILE_OUTSIDE", path,
        path + ": a link that leads out of the model directory is not followed");
  }
  return target.string();
}

absl::StatusOr<std::string> read_file(const std::string& directory, std::string_view name,
                                      size_t max_bytes) {
  const absl::StatusOr<std::string> path = resolve_file(directory, name);
  if (!path.ok()) return path.status();
  const absl::StatusOr<OpenFile> file = open_regular(*path);
  if (!file.ok()) return file.status();
  if (file->size > max_bytes) {
    return invalid_argument("FILE_SIZE", *path,
                            *path + ": at most " + std::to_string(max_bytes) + " bytes, got " +
                                std::to_string(file->size));
  }
  std::string content(file->size, '\0');
  size_t done = 0;
  while (done < content.size()) {
    const ssize_t got =
        ::read(file->descriptor.get(), content.data() + done, content.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      return make_error(absl::StatusCode::kDataLoss, "FILE_READ", *path,
                        *path + ": read " + std::to_string(done) + " of " +
                            std::to_string(content.size()) + " bytes" +
                            (got < 0 ? std::string(": ") + std::strerror(errno) : ""));
    }
    done += static_cast<size_t>(got);
  }
  return content;
}

absl::StatusOr<MappedFile> MappedFile::open(const std::string& directory, std::string_view name) {
  absl::StatusOr<std::string> path = resolve_file(directory, name);
  if (!path.ok()) return path.status();
  absl::StatusOr<OpenFile> file = open_regular(*path);
  if (!file.ok()) return file.status();
  MappedFile mapped;
  mapped.size_ = file->size;
  if (mapped.size_ > 0) {
    void* const data =
        ::mmap(nullptr, mapped.size_, PROT_READ, MAP_PRIVATE, file->descriptor.get(), 0);
    if (data == MAP_FAILED) {
      return make_error(absl::StatusCode::kDataLoss, "FILE_READ", *path,
                        *path + ": cannot be mapped: " + std::strerror(errno));
    }
    mapped.data_ = static_cast<const std::byte*>(data);
    ::madvise(data, mapped.size_, MADV_SEQUENTIAL);
  }
  mapped.path_ = std::move(*path);
  mapped.descriptor_ = file->descriptor.release();
  return mapped;
}

MappedFile::MappedFile(MappedFile&& other) noexcept { swap(other); }

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  MappedFile moved(std::move(other));
  swap(moved);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
  if (descriptor_ >= 0) ::close(descriptor_);
}

void MappedFile::swap(MappedFile& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
}

absl::Status MappedFile::check_size() const {
  struct stat status {};
  if (::fstat(descriptor_, &status) == 0 && static_cast<size_t>(status.st_size) >= size_) {
    return absl::OkStatus();
  }
  return make_error(absl::StatusCode::kDataLoss, "FILE_CHANGED", path_,
                    path_ + ": shrank while it was read: expected " + std::to_string(size_) +
                        " bytes, got " + std::to_string(status.st_size));
}

void MappedFile::release(size_t offset, size_t count) const {
  const size_t page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  // Whole pages only: the last one may hold the start of the next tensor.
  const size_t begin = offset / page * page;
  const size_t end = (std::min(offset + count, size_)) / page * page;
  if (end <= begin) return;
  ::madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_DONTNEED);
}

}  // namespace cogserve
