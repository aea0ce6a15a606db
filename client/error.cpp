#include "client/error.hpp"

#include <array>

namespace cogserve::client {

std::string code_name(Code code) {
  static constexpr std::array<std::string_view, 17> kNames = {"OK",
                                                              "CANCELLED",
                                                              "UNKNOWN",
                                                              "INVALID_ARGUMENT",
                                                              "DEADLINE_EXCEEDED",
                                                              "NOT_FOUND",
                                                              "ALREADY_EXISTS",
                                                              "PERMISSION_DENIED",
                                                              "RESOURCE_EXHAUSTED",
                                                              "FAILED_PRECONDITION",
                                                              "ABORTED",
                                                              "OUT_OF_RANGE",
                                                              "UNIMPLEMENTED",
                                                              "INTERNAL",
                                                              "UNAVAILABLE",
                                                              "DATA_LOSS",
                                                              "UNAUTHENTICATED"};
  const int number = static_cast<int>(code);
  if (number < 0 || number >= static_cast<int>(kNames.size())) {
    return "CODE_" + std::to_string(number);
  }
  return std::string(kNames[static_cast<size_t>(number)]);
}

std::string Error::name() const { return reason.empty() ? code_name(code) : reason; }

}  // namespace cogserve::client
