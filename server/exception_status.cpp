#include "server/exception_status.hpp"

#include <chrono>
#include <exception>
#include <new>

#include "engine/base/error.hpp"

namespace cogserve {

absl::Status status_of_exception() {
  try {
    throw;
  } catch (const std::bad_alloc&) {
    return with_retry_delay(make_error(absl::StatusCode::kResourceExhausted, "MEMORY", "",
                                       "the server is short of memory"),
                            std::chrono::seconds(1));
  } catch (const std::exception& error) {
    return absl::InternalError(error.what());
  } catch (...) {
    return absl::InternalError("an unknown exception");
  }
}

}  // namespace cogserve
