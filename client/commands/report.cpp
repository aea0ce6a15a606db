#include "client/commands/report.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

namespace cogserve::client {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kExitCodes =
    "\nExit codes:\n"
    "  0       success\n"
    "  1       a local failure: a file that cannot be read or written, a health of NOT_SERVING,\n"
    "          a load test in which some requests failed\n"
    "  2       wrong usage\n"
    "  64 + n  the call failed with gRPC status n: 65 CANCELLED, 67 INVALID_ARGUMENT,\n"
    "          68 DEADLINE_EXCEEDED, 69 NOT_FOUND, 72 RESOURCE_EXHAUSTED, 76 UNIMPLEMENTED,\n"
    "          77 INTERNAL, 78 UNAVAILABLE, 80 UNAUTHENTICATED\n"
    "Errors are written to stderr as \"error: REASON field: message\".\n";

// The reasons of what fails on this side, before any call. No server's are named so.
constexpr std::array<std::string_view, 2> kUsageReasons = {"USAGE", "CLIENT_OPTION"};
constexpr std::array<std::string_view, 4> kFileReasons = {"FILE_READ", "FILE_WRITE", "DATASET",
                                                          "QUESTIONS_FORMAT"};

template <size_t n>
bool is_any_of(std::string_view reason, const std::array<std::string_view, n>& reasons) {
  return std::find(reasons.begin(), reasons.end(), reason) != reasons.end();
}

void print_error_line(std::string_view name, std::string_view field, std::string_view message) {
  std::cerr << "error: " << name;
  if (!field.empty()) std::cerr << ' ' << field;
  std::cerr << ": " << message << std::endl;
}

std::string hint(const Error& error) {
  if (error.retry_after) {
    char text[96];
    std::snprintf(text, sizeof text, "try again in %.1f s, or with fewer requests at a time",
                  static_cast<double>(error.retry_after->count()) / 1000.0);
    return text;
  }
  if (error.reason == "IMAGE_COUNT") return "one conversation holds one picture: start a new one";
  if (error.reason == "CONTEXT_LENGTH") return "shorten the question, or lower --max-tokens";
  if (error.code == Code::kUnauthenticated)
    return "give the key with COGSERVE_API_KEY or --api-key";
  if (error.code == Code::kUnavailable && error.reason.empty()) {
    // A handshake that fails looks like this, too.
    return "is the server running? start it with `cogserve serve`, or name it with --server; if it "
           "wants TLS, see --tls, --cacert and --cert";
  }
  if (error.reason == "REQUEST_TIMEOUT") {
    return "lower --max-tokens, or start the server with a longer --max-request-time";
  }
  if (error.reason == "FIRST_TOKEN_TIMEOUT") {
    return "start the server with a longer --max-ttft, or on a faster device";
  }
  if (error.reason == "QUEUE_TIMEOUT") {
    return "ask when there is less to do, or start the server with a longer --max-queue-time";
  }
  if (error.code == Code::kDeadlineExceeded) return "allow more time with --deadline";
  if (error.code == Code::kUnimplemented && error.reason.empty()) {
    return "another server seems to listen there: check --server";
  }
  if (error.code == Code::kInternal && !error.request_id.empty()) {
    return "the server's log has more under " + error.request_id;
  }
  return {};
}

Json top_json(const TopLogprob& logprob) {
  return {{"token_id", logprob.token_id},
          {"token", logprob.token},
          {"bytes", std::vector<uint8_t>(logprob.token.begin(), logprob.token.end())},
          {"logprob", logprob.logprob}};
}

Json logprobs_json(const std::vector<TokenLogprob>& logprobs) {
  Json list = Json::array();
  for (const auto& logprob : logprobs) {
    Json token = top_json(logprob.chosen);
    token["top"] = Json::array();
    for (const auto& top : logprob.top) token["top"].push_back(top_json(top));
    list.push_back(std::move(token));
  }
  return list;
}

}  // namespace

int exit_code(const Error& error) {
  if (is_any_of(error.reason, kUsageReasons)) return kExitUsage;
  if (is_any_of(error.reason, kFileReasons)) return kExitLocal;
  return 64 + static_cast<int>(error.code);
}

void print_error(const Error& error) {
  print_error_line(error.name(), error.field, error.message);
  if (const std::string next = hint(error); !next.empty()) std::cerr << "hint: " << next << '\n';
}

int fail(const Error& error) {
  print_error(error);
  return exit_code(error);
}

int fail(int code, std::string_view reason, std::string_view field, std::string_view message) {
  print_error_line(reason, field, message);
  return code;
}

std::optional<int> parse_arguments(OptionTable* table, const std::vector<std::string>& arguments,
                                   std::vector<std::string>* positional) {
  auto parsed = table->parse(arguments);
  if (table->help_wanted()) {
    std::cout << table->help() << kExitCodes;
    return 0;
  }
  if (!parsed.ok()) {
    fail(kExitUsage, "USAGE", "", std::string(parsed.status().message()));
    std::cerr << "hint: --help lists the options\n";
    return kExitUsage;
  }
  *positional = *std::move(parsed);
  return std::nullopt;
}

std::string_view finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kUnspecified:
      break;
  }
  return "unspecified";
}

void print_timings(const Answer& answer, std::optional<double> first_token_ms) {
  const Usage& usage = answer.usage;
  const Timings& timings = answer.timings;
  std::cerr << "request " << answer.request_id << ": " << usage.prompt_tokens << " prompt tokens ("
            << usage.image_tokens << " of the picture), " << usage.completion_tokens
            << " answered (" << finish_reason_name(answer.finish_reason) << ')';
  char text[192];
  if (first_token_ms) {
    std::snprintf(text, sizeof text, ", first token after %.1f ms", *first_token_ms);
    std::cerr << text;
  }
  if (usage.completion_tokens > 1 && timings.decode_ms > 0) {
    std::snprintf(text, sizeof text, ", %.1f tokens/s",
                  (usage.completion_tokens - 1) * 1000.0 / timings.decode_ms);
    std::cerr << text;
  }
  std::snprintf(text, sizeof text,
                "\n  ms: queue %.1f, image decode %.1f, vision %.1f, prefill %.1f, decode %.1f, "
                "total %.1f\n",
                timings.queue_ms, timings.image_decode_ms, timings.vision_ms, timings.prefill_ms,
                timings.decode_ms, timings.total_ms);
  std::cerr << text;
}

Json answer_json(const Answer& answer) {
  const Usage& usage = answer.usage;
  const Timings& timings = answer.timings;
  Json json = {{"request_id", answer.request_id},
               {"model", answer.model},
               {"text", answer.text},
               {"finish_reason", finish_reason_name(answer.finish_reason)},
               {"usage",
                {{"prompt_tokens", usage.prompt_tokens},
                 {"image_tokens", usage.image_tokens},
                 {"completion_tokens", usage.completion_tokens}}},
               {"timings",
                {{"queue_ms", timings.queue_ms},
                 {"image_decode_ms", timings.image_decode_ms},
                 {"vision_ms", timings.vision_ms},
                 {"prefill_ms", timings.prefill_ms},
                 {"decode_ms", timings.decode_ms},
                 {"total_ms", timings.total_ms}}}};
  if (!answer.matched_stop.empty()) json["matched_stop"] = answer.matched_stop;
  if (!answer.token_ids.empty()) json["token_ids"] = answer.token_ids;
  if (!answer.logprobs.empty()) json["logprobs"] = logprobs_json(answer.logprobs);
  return json;
}

Json error_json(const Error& error) {
  Json json = {{"code", code_name(error.code)},
               {"reason", error.reason},
               {"field", error.field},
               {"message", error.message}};
  if (error.retry_after) json["retry_after_ms"] = error.retry_after->count();
  if (!error.request_id.empty()) json["request_id"] = error.request_id;
  if (!error.metadata.empty()) json["metadata"] = error.metadata;
  return json;
}

std::string json_text(const Json& value, bool indented) {
  return value.dump(indented ? 2 : -1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace cogserve::client
