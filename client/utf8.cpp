#include "client/utf8.hpp"

#include <nlohmann/json.hpp>

namespace cogserve::client {

// JSON's writer looks at every byte, by the same strict rules.
bool is_utf8(std::string_view text) {
  try {
    nlohmann::json(text).dump();
    return true;
  } catch (const nlohmann::json::type_error&) {
    return false;
  }
}

}  // namespace cogserve::client
