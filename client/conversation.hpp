// A conversation in the order the server asks for: user and assistant turns in alternation, at most
// one picture. Owned by one caller; not thread-safe.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "client/types.hpp"

namespace cogserve::client {

class Conversation {
 public:
  // The user's next turn; the picture, if any, stands before the text.
  Conversation& ask(std::string text, std::optional<Image> image = std::nullopt);

  // The model's answer to the last question.
  Conversation& answer(std::string text);

  // Takes the last turn back, so that a question that failed can be asked again.
  void undo();

  void clear();

  bool has_image() const;
  const std::vector<Message>& messages() const { return messages_; }

 private:
  std::vector<Message> messages_;
};

}  // namespace cogserve::client
