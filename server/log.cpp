#include "server/log.hpp"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <cstdio>
#include <memory>

namespace cogserve {
namespace {

std::atomic<bool> g_json{false};

// The logger's own default writes to stdout with colours; ours keeps stdout for answers.
spdlog::logger& logger() {
  static const std::shared_ptr<spdlog::logger> instance = [] {
    auto made = spdlog::stderr_logger_mt("cogserve");
    made->set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %l %v");
    return made;
  }();
  return *instance;
}

// As in a JSON string; what it leaves is also safe between quotes in the text form.
void append_escaped(std::string_view text, std::string* line) {
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      *line += '\\';
      *line += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      char code[8];
      std::snprintf(code, sizeof(code), "\\u%04x", static_cast<unsigned>(c));
      *line += code;
    } else {
      *line += c;
    }
  }
}

void append_number(double value, std::string* line) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.3f", value);
  *line += text;
}

bool is_plain(std::string_view text) {
  return !text.empty() && text.find_first_not_of(
                              "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrst"
                              "uvwxyz0123456789._-:/+[]") == std::string_view::npos;
}

void append_value(const LogField& field, bool json, std::string* line) {
  if (const auto* text = std::get_if<std::string_view>(&field.value)) {
    const bool quoted = json || !is_plain(*text);
    if (quoted) *line += '"';
    append_escaped(*text, line);
    if (quoted) *line += '"';
  } else if (const auto* integer = std::get_if<int64_t>(&field.value)) {
    *line += std::to_string(*integer);
  } else {
    append_number(std::get<double>(field.value), line);
  }
}

spdlog::level::level_enum native(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::err;
}

}  // namespace

void configure_log(std::string_view level, bool json) {
  g_json = json;
  logger().set_level(spdlog::level::from_str(std::string(level)));
  logger().flush_on(spdlog::level::info);
  logger().set_pattern(json ? R"({"time":"%Y-%m-%dT%H:%M:%S.%e%z","level":"%l",%v})"
                            : "%Y-%m-%dT%H:%M:%S.%e%z %l %v");
}

void log_event(LogLevel level, std::string_view event, std::initializer_list<LogField> fields) {
  if (!logger().should_log(native(level))) return;
  const bool json = g_json;
  std::string line = json ? "\"event\":\"" : "";
  line += event;
  if (json) line += '"';
  for (const LogField& field : fields) {
    line += json ? ",\"" : " ";
    line += field.key;
    line += json ? "\":" : "=";
    append_value(field, json, &line);
  }
  logger().log(native(level), "{}", line);
}

}  // namespace cogserve
