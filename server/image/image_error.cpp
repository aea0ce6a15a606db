#include "server/image/image_error.hpp"

#include "engine/base/error.hpp"

namespace cogserve::image {

absl::Status refuse(std::string_view reason, std::string_view message) {
  return invalid_argument(reason, "image", message);
}

}  // namespace cogserve::image
