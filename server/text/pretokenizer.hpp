// Splits text into the pieces that byte-pair merges never cross.
//
// Owned by Tokenizer; immutable after create(), so any thread may split. The rule is the regular
// expression that tokenizer.json carries. Llama-3's own pattern is matched by hand, in one pass
// over the text; any other pattern goes to PCRE2. Both read \p{L}, \p{N} and \s from
// UnicodeClasses, so that the pieces are those of the Hugging Face tokenizers library.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace cogserve::text {

class CompiledPattern;

class Pretokenizer {
 public:
  enum class Engine { kAuto, kPcre2 };  // kPcre2 is for tests: both engines must agree

  // Refuses with InvalidArgument a pattern that PCRE2 cannot compile, that can match nothing, or
  // that uses what Oniguruma (the library's engine) and PCRE2 read differently.
  static absl::StatusOr<Pretokenizer> create(std::string_view pattern,
                                             Engine engine = Engine::kAuto);

  Pretokenizer(Pretokenizer&&) noexcept;
  Pretokenizer& operator=(Pretokenizer&&) noexcept;
  ~Pretokenizer();

  // The pieces of `text` (valid UTF-8) in order: each match, and each stretch between matches.
  // Views into `text`; together they are `text`. Fails with ResourceExhausted where PCRE2 meets its
  // match limit, which Llama-3's pattern never does.
  absl::StatusOr<std::vector<std::string_view>> split(std::string_view text) const;

 private:
  explicit Pretokenizer(std::unique_ptr<const CompiledPattern> pattern);

  std::unique_ptr<const CompiledPattern> pattern_;  // null: Llama-3's pattern, matched by hand
};

}  // namespace cogserve::text
