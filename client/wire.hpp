// Between the library's values and cogserve.v1 messages.
#pragma once

#include <optional>
#include <string>

#include "client/error.hpp"
#include "client/types.hpp"

namespace cogserve::v1 {
class ChatRequest;
class ChatResponse;
class Model;
class StreamChatResponse;
}  // namespace cogserve::v1

namespace cogserve::client {

// The error of the first text that is not UTF-8, named as the server does: protobuf would send it,
// and the server could not read the message.
std::optional<Error> check_texts(const ChatRequest& request);
Error text_error(std::string field);

void write_request(const ChatRequest& request, v1::ChatRequest* out);

Answer read_answer(const v1::ChatResponse& response);

ModelInfo read_model(const v1::Model& model);

// Puts a streamed answer together, message by message. Lives in one call.
class AnswerBuilder {
 public:
  // The delta in `response`, or nullptr where it is the final message. The pointer holds until the
  // next call.
  const Delta* add(const v1::StreamChatResponse& response);

  // The answer after an OK status; INTERNAL with reason STREAM_INCOMPLETE where the stream ended
  // without its final message, or went on after it.
  Result<Answer> take();

 private:
  Answer answer_;
  Delta delta_;
  int finals_ = 0;
  bool went_on_ = false;
};

}  // namespace cogserve::client
