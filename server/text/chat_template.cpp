#include "server/text/chat_template.hpp"

#include <array>
#include <cstddef>

#include "absl/strings/str_cat.h"
#include "engine/base/error.hpp"

namespace cogserve::text {
namespace {

struct Form {
  Template kind;
  std::string_view name;
  std::string_view answer;  // what stands before each answer
};

constexpr std::array<Form, 3> kForms{{{Template::kChat, "chat", "Answer:"},
                                      {Template::kVqa, "vqa", "Short answer:"},
                                      {Template::kBase, "base", ""}}};

const Form& form_of(Template kind) { return kForms[static_cast<size_t>(kind)]; }

absl::Status refuse(std::string_view reason, size_t turn, std::string_view message) {
  return invalid_argument(reason, absl::StrCat("messages[", turn, "].role"), message);
}

absl::Status check_roles(std::span<const Turn> turns) {
  for (size_t i = 0; i < turns.size(); ++i) {
    const bool users_turn = i % 2 == 0;
    if (turns[i].role == Role::kSystem) {
      return refuse("SYSTEM_ROLE", i, "the model knows no system role, only user and assistant");
    }
    if ((turns[i].role == Role::kUser) == users_turn) continue;
    if (i == 0) return refuse("ROLE_ORDER", i, "the first turn must be the user's");
    return refuse(
        "ROLE_ORDER", i,
        users_turn ? "two turns of the assistant in a row" : "two turns of the user in a row");
  }
  if (turns.size() % 2 == 0) {
    return refuse("ROLE_ORDER", turns.size() - 1, "the last turn must be the user's");
  }
  return absl::OkStatus();
}

}  // namespace

std::optional<Template> parse_template(std::string_view name) {
  for (const Form& form : kForms) {
    if (form.name == name) return form.kind;
  }
  return std::nullopt;
}

std::string_view template_name(Template kind) { return form_of(kind).name; }

absl::StatusOr<std::string> render_prompt(Template kind, std::span<const Turn> turns,
                                          bool has_image) {
  if (turns.empty()) return invalid_argument("EMPTY_PROMPT", "messages", "no turns");
  if (absl::Status status = check_roles(turns); !status.ok()) return status;
  const std::string& question = turns.back().text;
  if (question.empty() && !has_image) {
    return invalid_argument("EMPTY_PROMPT", absl::StrCat("messages[", turns.size() - 1, "].parts"),
                            "an empty question without an image");
  }
  if (kind == Template::kBase) {
    if (turns.size() == 1) return question;
    return invalid_argument("BASE_HISTORY", "messages",
                            absl::StrCat("the base template takes one turn, got ", turns.size()));
  }
  const std::string_view answer = form_of(kind).answer;
  std::string prompt;
  for (const Turn& turn : turns) {
    if (turn.role == Role::kUser) {
      prompt.append("Question: ").append(turn.text).append(" ").append(answer);
    } else {
      prompt.append(" ").append(turn.text).append("\n");
    }
  }
  return prompt;
}

}  // namespace cogserve::text
