// The keys that callers may show, and whose each is.
//
// From flags, and from a file that `refresh` reads again. A line of the file is a key, or a name
// and a key; `sha256:` with 64 hexadecimal digits stands for a key that the file does not tell; a
// word that begins with # begins a comment. Kept as SHA-256 digests and compared in constant time.
// Thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/access/watched_files.hpp"

namespace cogserve {

class ApiKeys {
 public:
  static constexpr size_t kMinKeyBytes = 16;
  static constexpr size_t kMaxKeyBytes = 512;
  static constexpr size_t kMaxKeys = 1000;

  // `path` empty: no file. Errors name flag or file and line, never a key.
  static absl::StatusOr<std::unique_ptr<ApiKeys>> load(const std::vector<std::string>& flags,
                                                       const std::string& path);

  // Its owner's name; one that was given none is called by the first digits of the key's digest.
  std::optional<std::string> owner_of(std::string_view key) const;

  // Takes the file's keys if it has changed; true then. After an error, given once for each change,
  // those from before stay.
  absl::StatusOr<bool> refresh();

  bool empty() const;

 private:
  using Digest = std::array<uint8_t, 32>;
  struct Entry {
    std::string name;
    Digest digest;
  };

  ApiKeys(std::vector<Entry> flags, const std::string& path);

  static Digest digest_of(std::string_view key);
  static absl::StatusOr<Digest> parse_key(std::string_view text);
  // Adds a line's entry, if it has one.
  static absl::Status parse_line(std::string_view line, std::vector<Entry>* entries);
  static absl::StatusOr<std::vector<Entry>> parse_file(const std::string& path,
                                                       std::string_view text);

  const std::string path_;
  const std::vector<Entry> from_flags_;
  WatchedFiles files_;  // `refresh` alone
  mutable std::mutex mutex_;
  std::vector<Entry> entries_;  // those of the flags first
};

}  // namespace cogserve
