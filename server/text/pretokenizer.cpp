#include "server/text/pretokenizer.hpp"

#include <utility>

#include "server/text/compiled_pattern.hpp"
#include "server/text/llama3_splitter.hpp"

namespace cogserve::text {

Pretokenizer::Pretokenizer(std::unique_ptr<const CompiledPattern> pattern)
    : pattern_(std::move(pattern)) {}
Pretokenizer::Pretokenizer(Pretokenizer&&) noexcept = default;
Pretokenizer& Pretokenizer::operator=(Pretokenizer&&) noexcept = default;
Pretokenizer::~Pretokenizer() = default;

absl::StatusOr<Pretokenizer> Pretokenizer::create(std::string_view pattern, Engine engine) {
  if (engine == Engine::kAuto && pattern == kLlama3Pattern) return Pretokenizer(nullptr);
  absl::StatusOr<CompiledPattern> compiled = CompiledPattern::compile(pattern);
  if (!compiled.ok()) return compiled.status();
  return Pretokenizer(std::make_unique<const CompiledPattern>(*std::move(compiled)));
}

absl::StatusOr<std::vector<std::string_view>> Pretokenizer::split(std::string_view text) const {
  return pattern_ == nullptr ? split_llama3(text) : pattern_->split(text);
}

}  // namespace cogserve::text
