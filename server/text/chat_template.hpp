// The prompt text of a conversation, as the model was trained to read it. Pure functions.
//
// The templates are compiled in: no template language, nothing a caller could supply. Where there
// is an image its tokens stand before this text, whatever turn it came with.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace cogserve::text {

enum class Template {
  kChat,  // "Question: {question} Answer:"
  kVqa,   // "Question: {question} Short answer:"
  kBase,  // the bare question, for completion
};

enum class Role { kSystem, kUser, kAssistant };

struct Turn {
  Role role;
  std::string text;
};

// "chat", "vqa" or "base", as in the checkpoint's `template_version`.
std::optional<Template> parse_template(std::string_view name);
std::string_view template_name(Template kind);

// Renders a conversation that ends with the question to answer. Past turns read
// "Question: {question} Answer: {answer}\n". InvalidArgument, naming the turn, with reason
//   EMPTY_PROMPT  no turns; or an empty question and no image to go with it
//   SYSTEM_ROLE   the model knows no system turn
//   ROLE_ORDER    turns must alternate, and begin and end with the user
//   BASE_HISTORY  the base template has no form for past turns
absl::StatusOr<std::string> render_prompt(Template kind, std::span<const Turn> turns,
                                          bool has_image);

}  // namespace cogserve::text
