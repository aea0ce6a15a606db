#include "client/conversation.hpp"

#include <algorithm>
#include <utility>

namespace cogserve::client {

Conversation& Conversation::ask(std::string text, std::optional<Image> image) {
  Message message{Role::kUser, {}};
  if (image) message.parts.emplace_back(*std::move(image));
  message.parts.emplace_back(std::move(text));
  messages_.push_back(std::move(message));
  return *this;
}

Conversation& Conversation::answer(std::string text) {
  messages_.push_back({Role::kAssistant, {std::move(text)}});
  return *this;
}

void Conversation::undo() {
  if (!messages_.empty()) messages_.pop_back();
}

void Conversation::clear() { messages_.clear(); }

bool Conversation::has_image() const {
  return std::any_of(messages_.begin(), messages_.end(), [](const Message& message) {
    return std::any_of(message.parts.begin(), message.parts.end(),
                       [](const Part& part) { return std::holds_alternative<Image>(part); });
  });
}

}  // namespace cogserve::client
