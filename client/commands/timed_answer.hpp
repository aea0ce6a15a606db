// One question asked and timed; shared by `ask` and `chat`.
#pragma once

#include <functional>
#include <optional>
#include <string_view>

#include "client/client.hpp"

namespace cogserve::client {

struct TimedAnswer {
  Result<Answer> answer;
  // From sending to the first piece of text; absent where nothing was streamed.
  std::optional<double> first_token_ms;
};

// `show` gets the text: in pieces where `stream`, else at once.
TimedAnswer ask_timed(Client* server, const ChatRequest& request, bool stream,
                      const std::function<void(std::string_view)>& show,
                      Cancellation* cancellation = nullptr);

}  // namespace cogserve::client
