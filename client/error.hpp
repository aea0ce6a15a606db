// What a failed call tells its caller, and the value-or-error that every call of the client library
// returns. Plain values, owned by whoever holds them.
#pragma once

#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace cogserve::client {

// gRPC's status codes.
enum class Code {
  kOk = 0,
  kCancelled = 1,
  kUnknown = 2,
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kNotFound = 5,
  kAlreadyExists = 6,
  kPermissionDenied = 7,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,
  kAborted = 10,
  kOutOfRange = 11,
  kUnimplemented = 12,
  kInternal = 13,
  kUnavailable = 14,
  kDataLoss = 15,
  kUnauthenticated = 16,
};

// "INVALID_ARGUMENT"; "CODE_99" for a number that gRPC does not define.
std::string code_name(Code code);

struct Error {
  Code code = Code::kUnknown;
  // The server's stable UPPER_SNAKE reason; empty when the failure did not come from cogserve
  // (no connection, deadline seen by the client).
  std::string reason = {};
  // The request's field at fault, if one is.
  std::string field = {};
  std::string message = {};
  // When a retry may succeed.
  std::optional<std::chrono::milliseconds> retry_after = {};
  std::string request_id = {};
  // The limit and the value it was compared with, as the server names them.
  std::map<std::string, std::string> metadata = {};

  // The reason, or the code's name where there is none: never empty.
  std::string name() const;
};

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}
  Result(Error error) : state_(std::move(error)) {}

  bool ok() const { return std::holds_alternative<T>(state_); }

  // Only when ok(); std::bad_variant_access otherwise.
  T& operator*() & { return std::get<T>(state_); }
  const T& operator*() const& { return std::get<T>(state_); }
  T&& operator*() && { return std::get<T>(std::move(state_)); }
  T* operator->() { return &std::get<T>(state_); }
  const T* operator->() const { return &std::get<T>(state_); }

  // Only when not ok().
  const Error& error() const { return std::get<Error>(state_); }

 private:
  std::variant<T, Error> state_;
};

}  // namespace cogserve::client
