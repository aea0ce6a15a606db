// A pre-tokenization pattern compiled by PCRE2. Immutable; any thread may split with it.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

struct pcre2_real_code_8;
struct pcre2_real_match_context_8;

namespace cogserve::text {

class CompiledPattern {
 public:
  // `pattern` is read as Oniguruma's Ruby syntax, as far as PCRE2 reads it alike: \p{L}, \p{N}, \s
  // and their complements, character sets, groups, lookaround, quantifiers. Anything else, and a
  // pattern that can match the empty string, is refused with InvalidArgument.
  static absl::StatusOr<CompiledPattern> compile(std::string_view pattern);

  // See Pretokenizer::split.
  absl::StatusOr<std::vector<std::string_view>> split(std::string_view text) const;

 private:
  struct Deleter {
    void operator()(pcre2_real_code_8* code) const;
    void operator()(pcre2_real_match_context_8* context) const;
  };
  using Code = std::unique_ptr<pcre2_real_code_8, Deleter>;
  using Limits = std::unique_ptr<pcre2_real_match_context_8, Deleter>;

  CompiledPattern(Code code, Limits limits);

  Code code_;
  Limits limits_;
};

}  // namespace cogserve::text
