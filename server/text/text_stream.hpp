// Generated token ids to text that is safe to show at once.
//
// One per answer, owned by whoever writes the answer and used from one thread at a time; refers to
// a Tokenizer that outlives it. It never shows part of a character, nor part of a stop string: over
// any cutting into tokens, all that push() and finish() return makes up the text of the whole
// answer (as Tokenizer::decode gives it), cut at the first stop string. Linear in the length of the
// answer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/text/stop_matcher.hpp"
#include "server/text/tokenizer.hpp"
#include "server/text/utf8.hpp"

namespace cogserve::text {

struct TextStreamOptions {
  // Not empty; their limits in number and length are the caller's to check.
  std::vector<std::string> stops = {};
  // A stop string that is completed by one of the first `min_tokens` tokens is text like any other.
  int min_tokens = 0;
  // Drop one space at the very beginning: the prompt ends in "Answer:" and the model goes on with
  // " word".
  bool strip_leading_space = false;
};

class TextStream {
 public:
  explicit TextStream(const Tokenizer* tokenizer, TextStreamOptions options = {});

  // Takes the next token and returns the text that may be shown now, often none. Special and
  // unknown ids add no text. After stopped(), nothing.
  std::string push(int32_t id);

  // Ends the answer and returns what was held back. Call once.
  std::string finish();

  bool stopped() const { return stop_index_.has_value(); }
  // Which of TextStreamOptions::stops ended the text; of equal ones, the first.
  std::optional<size_t> stop_index() const { return stop_index_; }

 private:
  std::string show(std::string_view text);

  const Tokenizer* tokenizer_;
  int min_tokens_;
  bool strip_next_space_;
  int64_t tokens_ = 0;
  Utf8Repairer repairer_;
  StopMatcher matcher_;
  std::string held_;  // text not shown yet: it may be the beginning of a stop string
  std::optional<size_t> stop_index_;
};

}  // namespace cogserve::text
