#include "server/text/added_token_finder.hpp"

#include <algorithm>
#include <functional>

#include "absl/strings/string_view.h"

namespace cogserve::text {

void AddedTokenFinder::add(const std::string& content, int32_t id) {
  ids_.emplace(content, id);
  const auto place =
      std::lower_bound(lengths_.begin(), lengths_.end(), content.size(), std::greater<>());
  if (place == lengths_.end() || *place != content.size()) lengths_.insert(place, content.size());
  if (first_bytes_.find(content[0]) == std::string::npos) first_bytes_ += content[0];
}

AddedTokenFinder::Found AddedTokenFinder::find(std::string_view text, size_t from) const {
  for (size_t at = text.find_first_of(first_bytes_, from); at != std::string_view::npos;
       at = text.find_first_of(first_bytes_, at + 1)) {
    for (const size_t length : lengths_) {
      if (length > text.size() - at) continue;
      const auto known = ids_.find(absl::string_view(text.data() + at, length));
      if (known != ids_.end()) return {at, length, known->second};
    }
  }
  return {text.size(), 0, 0};
}

}  // namespace cogserve::text
