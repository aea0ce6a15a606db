// How the verbs speak: exit codes, error lines, --help, answers as text and as JSON.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "client/error.hpp"
#include "client/types.hpp"
#include "command/option_table.hpp"

namespace cogserve::client {

inline constexpr int kExitLocal = 1;
inline constexpr int kExitUsage = 2;

// A question typed at a terminal that is set to another encoding.
inline constexpr std::string_view kQuestionNotUtf8 =
    "the question is not UTF-8: is the terminal set to another encoding?";

// kExitUsage for a flag or an option at fault, kExitLocal for a file; of a call that failed 64 +
// the status code, as grpcurl.
int exit_code(const Error& error);

// "error: REASON field: message" and, where there is one, "hint: what to do next", to stderr.
void print_error(const Error& error);

// The same two lines; returns the exit code.
int fail(const Error& error);

// The first line for a failure on this side; returns `code`.
int fail(int code, std::string_view reason, std::string_view field, std::string_view message);

// Parses; prints --help (with the exit codes) or the usage error. Returns the exit code where the
// verb ends here, else nothing and the positional arguments.
std::optional<int> parse_arguments(OptionTable* table, const std::vector<std::string>& arguments,
                                   std::vector<std::string>* positional);

// "stop" or "length".
std::string_view finish_reason_name(FinishReason reason);

// Counts, speed and stage times of one answer, to stderr. `first_token_ms` is the client's own
// measure; absent where the answer was not streamed.
void print_timings(const Answer& answer, std::optional<double> first_token_ms);

nlohmann::ordered_json answer_json(const Answer& answer);
nlohmann::ordered_json error_json(const Error& error);

// One line, or indented; bytes that are not UTF-8 become U+FFFD.
std::string json_text(const nlohmann::ordered_json& value, bool indented);

}  // namespace cogserve::client
