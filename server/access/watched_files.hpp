// Small files that an operator may replace while the server runs: keys and certificates.
//
// Whole contents are compared, so that it does not matter how they are replaced: in place, by a
// rename, or by a link that is moved, as Kubernetes does. Not thread-safe.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace cogserve {

class WatchedFiles {
 public:
  static constexpr size_t kMaxFileBytes = 1 << 20;

  explicit WatchedFiles(std::vector<std::string> paths) : paths_(std::move(paths)) {}

  // Their contents, in order of the paths; nothing if they are as last time. A change counts once
  // two looks agree on it: what is being written is not read half. What could not be read is an
  // error once, until it can be read again.
  absl::StatusOr<std::optional<std::vector<std::string>>> look();

 private:
  using Contents = absl::StatusOr<std::vector<std::string>>;

  const std::vector<std::string> paths_;
  std::optional<Contents> seen_;
  std::optional<Contents> change_;
};

}  // namespace cogserve
