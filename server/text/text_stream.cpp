#include "server/text/text_stream.hpp"

#include <utility>

namespace cogserve::text {

TextStream::TextStream(const Tokenizer* tokenizer, TextStreamOptions options)
    : tokenizer_(tokenizer),
      min_tokens_(options.min_tokens),
      strip_next_space_(options.strip_leading_space),
      matcher_(std::move(options.stops)) {}

std::string TextStream::push(int32_t id) {
  if (stopped()) return {};
  ++tokens_;
  if (tokenizer_->is_special(id)) return {};
  std::string text;
  repairer_.push(tokenizer_->token_bytes(id), &text);
  return show(text);
}

std::string TextStream::finish() {
  if (stopped()) return {};
  std::string text;
  repairer_.finish(&text);
  std::string shown = show(text);
  if (!stopped()) shown += std::exchange(held_, {});
  return shown;
}

// Adds whole characters to the text and returns what can no longer become a stop string.
std::string TextStream::show(std::string_view text) {
  if (strip_next_space_ && !text.empty()) {
    if (text.front() == ' ') text.remove_prefix(1);
    strip_next_space_ = false;
  }
  for (const char byte : text) {
    held_ += byte;
    const std::optional<size_t> completed = matcher_.push(byte);
    if (!completed.has_value() || tokens_ <= min_tokens_) continue;
    stop_index_ = completed;
    held_.resize(held_.size() - matcher_.stop(*completed).size());
    return std::exchange(held_, {});
  }
  const size_t safe = held_.size() - matcher_.pending();
  std::string shown = held_.substr(0, safe);
  held_.erase(0, safe);
  return shown;
}

}  // namespace cogserve::text
