// The server's log: one line an event, `event key=value ...` or JSON, on stderr.
//
// Values are escaped, so that no caller can forge a line. Prompts, pictures and answers are never
// logged. Thread-safe once configured.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace cogserve {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

struct LogField {
  std::string_view key;
  std::variant<std::string_view, int64_t, double> value;
};

// `level`: debug, info, warning, error or off; `json`: lines are JSON objects.
void configure_log(std::string_view level, bool json);

void log_event(LogLevel level, std::string_view event, std::initializer_list<LogField> fields = {});

}  // namespace cogserve
