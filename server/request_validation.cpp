#include "server/request_validation.hpp"

#include <algorithm>
#include <sstream>
#include <utility>

#include "engine/base/error.hpp"
#include "server/text/utf8.hpp"

namespace cogserve {
namespace {

std::string number_text(float value) {
  std::ostringstream text;
  text << value;
  return text.str();
}

std::string number_text(int value) { return std::to_string(value); }

absl::Status over_limit(std::string_view reason, std::string_view field, const std::string& what,
                        const std::string& limit, const std::string& got) {
  return with_limit(
      invalid_argument(reason, field, what + ": the limit is " + limit + ", got " + got), limit,
      got);
}

template <typename T>
std::string range_text(T low, T high) {
  return number_text(low) + ".." + number_text(high);
}

// False for NaN, too.
template <typename T>
absl::Status check_range(std::string_view field, T value, T low, T high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return over_limit("PARAM_RANGE", field, std::string(field) + " is out of range",
                    range_text(low, high), number_text(value));
}

std::string index_text(const char* name, int index) {
  return std::string(name) + "[" + std::to_string(index) + "]";
}

absl::Status check_model(const std::string& model, const RequestRules& rules) {
  const auto& names = rules.model_names;
  if (model.empty() || std::find(names.begin(), names.end(), model) != names.end()) {
    return absl::OkStatus();
  }
  // The name is the caller's own, but it is not repeated at any length.
  const std::string shown = text::find_invalid_utf8(model) == std::string::npos
                                ? model.substr(0, model.size() <= 64 ? model.size() : 0)
                                : std::string();
  return with_limit(make_error(absl::StatusCode::kNotFound, "MODEL_NOT_FOUND", "model",
                               "this server does not serve that model; it serves " + names.front()),
                    names.front(), shown);
}

// --- messages ------------------------------------------------------------------------------------

absl::Status check_role(v1::Role role, int index) {
  const std::string field = index_text("messages", index) + ".role";
  if (role == v1::ROLE_SYSTEM) {
    return invalid_argument("SYSTEM_ROLE", field,
                            "the model has no system role; put instructions in the first question");
  }
  if (role != v1::ROLE_USER && role != v1::ROLE_ASSISTANT) {
    return with_limit(
        invalid_argument("ROLE", field, "the role must be ROLE_USER or ROLE_ASSISTANT"),
        "ROLE_USER, ROLE_ASSISTANT", std::to_string(static_cast<int>(role)));
  }
  const v1::Role expected = index % 2 == 0 ? v1::ROLE_USER : v1::ROLE_ASSISTANT;
  if (role == expected) return absl::OkStatus();
  return with_limit(
      invalid_argument("ROLE_ORDER", field, "user and assistant must alternate, the user first"),
      v1::Role_Name(expected), v1::Role_Name(role));
}

// Reads the conversation into a CheckedRequest, message by message.
class ConversationReader {
 public:
  ConversationReader(const RequestLimits& limits, CheckedRequest* checked)
      : limits_(limits), checked_(*checked) {}

  absl::Status read(v1::ChatRequest& request) {
    const auto count = static_cast<size_t>(request.messages_size());
    if (count == 0 || count > limits_.max_messages) {
      return over_limit("MESSAGES", "messages", "wrong number of messages",
                        "1.." + std::to_string(limits_.max_messages), std::to_string(count));
    }
    for (int i = 0; i < request.messages_size(); ++i) {
      if (absl::Status status = check_role(request.messages(i).role(), i); !status.ok()) {
        return status;
      }
    }
    if (count % 2 == 0) {
      return invalid_argument("ROLE_ORDER",
                              index_text("messages", request.messages_size() - 1) + ".role",
                              "the last message must be the user's");
    }
    for (int i = 0; i < request.messages_size(); ++i) {
      if (absl::Status status = read_message(*request.mutable_messages(i), i); !status.ok()) {
        return status;
      }
    }
    return absl::OkStatus();
  }

  // Null: there is none.
  std::string* image() const { return image_; }

 private:
  absl::Status read_message(v1::Message& message, int index) {
    const std::string field = index_text("messages", index);
    if (static_cast<size_t>(message.parts_size()) > limits_.max_parts) {
      return over_limit("PARTS", field + ".parts", "too many parts",
                        std::to_string(limits_.max_parts), std::to_string(message.parts_size()));
    }
    const bool from_user = message.role() == v1::ROLE_USER;
    text::Turn turn{from_user ? text::Role::kUser : text::Role::kAssistant, {}};
    bool image_here = false;
    for (int i = 0; i < message.parts_size(); ++i) {
      v1::Part& part = *message.mutable_parts(i);
      const std::string part_field = field + "." + index_text("parts", i);
      absl::Status status;
      switch (part.kind_case()) {
        case v1::Part::kText:
          status = read_text(part.text(), part_field + ".text", &turn.text);
          break;
        case v1::Part::kImage:
          status = read_image(*part.mutable_image(), from_user, part_field + ".image");
          image_here = true;
          break;
        case v1::Part::KIND_NOT_SET:
          status = invalid_argument("PART_EMPTY", part_field, "a part holds either text or image");
      }
      if (!status.ok()) return status;
    }
    if (from_user && turn.text.empty() && !image_here) {
      return invalid_argument("EMPTY_PROMPT", field + ".parts",
                              "a user's message needs text or an image");
    }
    checked_.turns.push_back(std::move(turn));
    return absl::OkStatus();
  }

  absl::Status read_text(const std::string& text, const std::string& field, std::string* turn) {
    prompt_bytes_ += text.size();
    if (prompt_bytes_ > limits_.max_prompt_bytes) {
      return over_limit("PROMPT_BYTES", field, "the conversation's text is too long",
                        std::to_string(limits_.max_prompt_bytes), std::to_string(prompt_bytes_));
    }
    if (text::find_invalid_utf8(text) != std::string::npos) {
      return invalid_argument("TEXT_UTF8", field, "text must be UTF-8");
    }
    *turn += text;
    return absl::OkStatus();
  }

  absl::Status read_image(std::string& image, bool from_user, const std::string& field) {
    if (!from_user) {
      return invalid_argument("IMAGE_ROLE", field, "only a user's message may hold an image");
    }
    if (checked_.has_image) {
      return over_limit("IMAGE_COUNT", field, "the model takes one image in a conversation", "1",
                        "2");
    }
    if (image.size() > limits_.image.max_encoded_bytes) {
      return over_limit("IMAGE_TOO_LARGE", field, "the encoded image is too large",
                        std::to_string(limits_.image.max_encoded_bytes),
                        std::to_string(image.size()));
    }
    checked_.has_image = true;
    checked_.image_field = field;
    image_ = &image;
    return absl::OkStatus();
  }

  const RequestLimits& limits_;
  CheckedRequest& checked_;
  std::string* image_ = nullptr;
  size_t prompt_bytes_ = 0;
};

absl::Status read_template(const v1::ChatRequest& request, const RequestRules& rules,
                           CheckedRequest* checked) {
  switch (request.template_()) {
    case v1::TEMPLATE_UNSPECIFIED:
      checked->chat_template = rules.default_template;
      break;
    case v1::TEMPLATE_CHAT:
      checked->chat_template = text::Template::kChat;
      break;
    case v1::TEMPLATE_VQA:
      checked->chat_template = text::Template::kVqa;
      break;
    case v1::TEMPLATE_BASE:
      checked->chat_template = text::Template::kBase;
      break;
    default:
      return with_limit(invalid_argument("TEMPLATE", "template", "unknown template"),
                        "TEMPLATE_CHAT, TEMPLATE_VQA, TEMPLATE_BASE",
                        std::to_string(static_cast<int>(request.template_())));
  }
  if (checked->chat_template == text::Template::kBase && checked->turns.size() > 1) {
    return over_limit("BASE_HISTORY", "messages", "the base template takes one message", "1",
                      std::to_string(checked->turns.size()));
  }
  return absl::OkStatus();
}

// --- parameters ----------------------------------------------------------------------------------

absl::Status read_sampling(const v1::ChatRequest& request, const RequestRules& rules,
                           CheckedRequest* checked) {
  const v1::Sampling& from = request.sampling();
  const GenerationConfig& defaults = rules.generation;
  SamplingParams& to = checked->sampling;
  to.temperature = from.has_temperature() ? from.temperature() : defaults.temperature;
  to.top_p = from.has_top_p() ? from.top_p() : defaults.top_p;
  to.top_k = from.has_top_k() ? from.top_k() : defaults.top_k;
  to.repetition_penalty =
      from.has_repetition_penalty() ? from.repetition_penalty() : defaults.repetition_penalty;
  to.min_p = from.min_p();
  to.presence_penalty = from.presence_penalty();
  to.frequency_penalty = from.frequency_penalty();
  if (from.has_seed()) checked->seed = from.seed();
  to.logprobs = request.has_logprobs() ? request.logprobs() : -1;

  if (!(to.top_p > 0)) {
    return over_limit("PARAM_RANGE", "sampling.top_p", "sampling.top_p is out of range",
                      "above 0, up to 1", number_text(to.top_p));
  }
  const absl::Status checks[] = {
      check_range("sampling.temperature", to.temperature, 0.0f, 2.0f),
      check_range("sampling.top_p", to.top_p, 0.0f, 1.0f),
      check_range("sampling.top_k", from.top_k(), 0, rules.limits.max_top_k),
      check_range("sampling.min_p", to.min_p, 0.0f, 1.0f),
      check_range("sampling.repetition_penalty", to.repetition_penalty, 0.1f, 2.0f),
      check_range("sampling.presence_penalty", to.presence_penalty, -2.0f, 2.0f),
      check_range("sampling.frequency_penalty", to.frequency_penalty, -2.0f, 2.0f),
      check_range("logprobs", request.logprobs(), 0, rules.limits.max_logprobs),
  };
  for (const absl::Status& status : checks) {
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status read_stop_strings(const v1::Stopping& stopping, const RequestLimits& limits,
                               CheckedRequest* checked) {
  if (stopping.stop_size() > limits.max_stop_strings) {
    return over_limit("STOP_COUNT", "stopping.stop", "too many stop strings",
                      std::to_string(limits.max_stop_strings),
                      std::to_string(stopping.stop_size()));
  }
  for (int i = 0; i < stopping.stop_size(); ++i) {
    const std::string& stop = stopping.stop(i);
    const std::string field = "stopping." + index_text("stop", i);
    if (stop.empty() || stop.size() > limits.max_stop_bytes) {
      return over_limit("STOP_LENGTH", field, "wrong length of a stop string, in bytes",
                        "1.." + std::to_string(limits.max_stop_bytes), std::to_string(stop.size()));
    }
    if (text::find_invalid_utf8(stop) != std::string::npos) {
      return invalid_argument("TEXT_UTF8", field, "text must be UTF-8");
    }
    checked->stop.push_back(stop);
  }
  return absl::OkStatus();
}

absl::Status read_stop_token_ids(const v1::Stopping& stopping, const RequestRules& rules,
                                 CheckedRequest* checked) {
  if (stopping.stop_token_ids_size() > rules.limits.max_stop_token_ids) {
    return over_limit("STOP_COUNT", "stopping.stop_token_ids", "too many stop token ids",
                      std::to_string(rules.limits.max_stop_token_ids),
                      std::to_string(stopping.stop_token_ids_size()));
  }
  for (int i = 0; i < stopping.stop_token_ids_size(); ++i) {
    const int32_t id = stopping.stop_token_ids(i);
    if (id < 0 || id >= rules.vocab_size) {
      return over_limit("TOKEN_ID_RANGE", "stopping." + index_text("stop_token_ids", i),
                        "no such token id", range_text(0, rules.vocab_size - 1),
                        std::to_string(id));
    }
    checked->stop_token_ids.push_back(id);
  }
  return absl::OkStatus();
}

absl::Status read_stopping(const v1::Stopping& stopping, const RequestRules& rules,
                           CheckedRequest* checked) {
  const RequestLimits& limits = rules.limits;
  if (stopping.has_max_tokens()) {
    const absl::Status status =
        check_range("stopping.max_tokens", stopping.max_tokens(), 1, limits.max_tokens);
    if (!status.ok()) return status;
    checked->max_tokens = stopping.max_tokens();
  }
  const int most = checked->max_tokens.value_or(limits.default_max_tokens);
  const absl::Status status = check_range("stopping.min_tokens", stopping.min_tokens(), 0, most);
  if (!status.ok()) return status;
  checked->min_tokens = stopping.min_tokens();
  checked->ignore_eos = stopping.ignore_eos();
  if (absl::Status stop = read_stop_strings(stopping, limits, checked); !stop.ok()) return stop;
  return read_stop_token_ids(stopping, rules, checked);
}

}  // namespace

absl::Status check_request_id(const std::string& id, const RequestLimits& limits) {
  if (id.size() > limits.max_request_id_bytes) {
    return over_limit("REQUEST_ID", "request_id", "request_id is too long",
                      std::to_string(limits.max_request_id_bytes), std::to_string(id.size()));
  }
  const bool plain = std::all_of(id.begin(), id.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
  });
  if (plain) return absl::OkStatus();
  return invalid_argument("REQUEST_ID", "request_id", "request_id may hold only [A-Za-z0-9._-]");
}

absl::StatusOr<CheckedRequest> check_request(v1::ChatRequest request, const RequestRules& rules) {
  CheckedRequest checked;
  absl::Status status = check_request_id(request.request_id(), rules.limits);
  if (status.ok()) status = check_model(request.model(), rules);
  ConversationReader conversation(rules.limits, &checked);
  if (status.ok()) status = conversation.read(request);
  if (status.ok()) status = read_template(request, rules, &checked);
  if (status.ok()) status = read_sampling(request, rules, &checked);
  if (status.ok()) status = read_stopping(request.stopping(), rules, &checked);
  if (!status.ok()) return status;
  checked.request_id = request.request_id();
  checked.return_token_ids = request.return_token_ids();
  if (conversation.image() != nullptr) checked.image = std::move(*conversation.image());
  return checked;
}

}  // namespace cogserve
