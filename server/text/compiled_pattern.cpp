#define PCRE2_CODE_UNIT_WIDTH 8

#include "server/text/compiled_pattern.hpp"

#include <pcre2.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/text/pattern_translator.hpp"

namespace cogserve::text {
namespace {

// One match of a sane pattern needs a handful of steps a character; these only stop a pattern that
// backtracks without bound.
constexpr uint32_t kMatchLimit = 10'000'000;
constexpr uint32_t kHeapLimitKib = 64 * 1024;

struct MatchDataDeleter {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};

std::string error_text(int code) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

// Runs the machine code where there is some, and the interpreter where its small stack overflows.
int run_match(const pcre2_code* code, std::string_view text, size_t from, pcre2_match_data* data,
              pcre2_match_context* limits) {
  const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  const int found = pcre2_match(code, subject, text.size(), from, PCRE2_NO_UTF_CHECK, data, limits);
  if (found != PCRE2_ERROR_JIT_STACKLIMIT) return found;
  return pcre2_match(code, subject, text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data,
                     limits);
}

}  // namespace

void CompiledPattern::Deleter::operator()(pcre2_real_code_8* code) const { pcre2_code_free(code); }
void CompiledPattern::Deleter::operator()(pcre2_real_match_context_8* context) const {
  pcre2_match_context_free(context);
}

CompiledPattern::CompiledPattern(Code code, Limits limits)
    : code_(std::move(code)), limits_(std::move(limits)) {}

absl::StatusOr<CompiledPattern> CompiledPattern::compile(std::string_view pattern) {
  absl::StatusOr<std::string> translated = translate_pattern(pattern);
  if (!translated.ok()) return translated.status();

  int error = 0;
  size_t offset = 0;
  Code code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated->data()), translated->size(),
                          PCRE2_UTF, &error, &offset, nullptr));
  if (code == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("pattern: at byte ", offset, " of its translation: ", error_text(error)));
  }
  uint32_t matches_empty = 0;
  pcre2_pattern_info(code.get(), PCRE2_INFO_MATCHEMPTY, &matches_empty);
  if (matches_empty != 0) {
    return absl::InvalidArgumentError("pattern: it can match the empty string");
  }
  // Failure only means that this machine has no compiler for patterns; the interpreter remains.
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);

  Limits limits(pcre2_match_context_create(nullptr));
  if (limits == nullptr) return absl::ResourceExhaustedError("out of memory");
  pcre2_set_match_limit(limits.get(), kMatchLimit);
  pcre2_set_heap_limit(limits.get(), kHeapLimitKib);
  return CompiledPattern(std::move(code), std::move(limits));
}

absl::StatusOr<std::vector<std::string_view>> CompiledPattern::split(std::string_view text) const {
  std::vector<std::string_view> pieces;
  const std::unique_ptr<pcre2_match_data, MatchDataDeleter> data(
      pcre2_match_data_create_from_pattern(code_.get(), nullptr));
  if (data == nullptr) return absl::ResourceExhaustedError("out of memory");
  size_t begin = 0;
  while (begin < text.size()) {
    const int found = run_match(code_.get(), text, begin, data.get(), limits_.get());
    if (found == PCRE2_ERROR_NOMATCH) break;
    if (found < 0) {
      return absl::ResourceExhaustedError(
          absl::StrCat("splitting text at byte ", begin, ": ", error_text(found)));
    }
    const size_t* const bounds = pcre2_get_ovector_pointer(data.get());
    if (bounds[0] > begin) pieces.push_back(text.substr(begin, bounds[0] - begin));
    pieces.push_back(text.substr(bounds[0], bounds[1] - bounds[0]));
    begin = bounds[1];
  }
  if (begin < text.size()) pieces.push_back(text.substr(begin));
  return pieces;
}

}  // namespace cogserve::text
