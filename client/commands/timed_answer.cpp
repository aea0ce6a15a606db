#include "client/commands/timed_answer.hpp"

#include <chrono>

namespace cogserve::client {

TimedAnswer ask_timed(Client* server, const ChatRequest& request, bool stream,
                      const std::function<void(std::string_view)>& show,
                      Cancellation* cancellation) {
  if (!stream) {
    auto answer = server->chat(request, cancellation);
    if (answer.ok()) show(answer->text);
    return {std::move(answer), std::nullopt};
  }
  std::optional<double> first_token_ms;
  const auto sent = std::chrono::steady_clock::now();
  auto answer = server->stream_chat(
      request,
      [&](const Delta& delta) {
        if (delta.text.empty()) return;
        if (!first_token_ms) {
          const std::chrono::duration<double, std::milli> wait =
              std::chrono::steady_clock::now() - sent;
          first_token_ms = wait.count();
        }
        show(delta.text);
      },
      cancellation);
  return {std::move(answer), first_token_ms};
}

}  // namespace cogserve::client
