// The input edits a small tokenizer.json (one byte changed at each of up to eight places) and is
// then text to encode. A file is refused or gives a tokenizer; either way nothing breaks, and
// whatever is valid UTF-8 comes back as it was, without special tokens.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>

#include "server/text/tokenizer.hpp"
#include "server/text/utf8.hpp"

namespace {

using cogserve::text::Tokenizer;

constexpr size_t kEditBytes = 4;  // position (3), value (1)
constexpr size_t kMaxEdits = 8;

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

const std::string& good_file() {
  static const std::string text = [] {
    std::ifstream stream(COGSERVE_SOURCE_DIR "/tests/data/tokenizer/tokenizer.json");
    return std::string(std::istreambuf_iterator<char>(stream), {});
  }();
  return text;
}

const Tokenizer& good_tokenizer() {
  static const Tokenizer tokenizer = Tokenizer::parse(good_file()).value();
  return tokenizer;
}

void check_round_trip(const Tokenizer& tokenizer, std::string_view text) {
  const auto ids = tokenizer.encode(text);
  const bool is_utf8 = cogserve::text::find_invalid_utf8(text) == std::string_view::npos;
  // A mutated pattern may meet its match limit; the good one never does.
  require(ids.ok() || !is_utf8 || &tokenizer != &good_tokenizer(), "valid text was refused");
  require(!ids.ok() || is_utf8, "text that is not UTF-8 was taken");
  if (!ids.ok()) return;
  require(tokenizer.decode(*ids) == text, "decode(encode(text)) is not the text");
  for (const int32_t id : *ids) require(!tokenizer.is_special(id), "text became a special token");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  // Reading a file takes as long as encoding many texts, so most inputs only encode.
  const size_t wanted = data[0] < 32 ? data[0] % (kMaxEdits + 1) : 0;
  const size_t edits = std::min(wanted, (size - 1) / kEditBytes);
  const uint8_t* edit = data + 1;
  std::string file = good_file();
  for (size_t i = 0; i < edits; ++i, edit += kEditBytes) {
    const size_t position = edit[0] | edit[1] << 8 | edit[2] << 16;
    file[position % file.size()] = static_cast<char>(edit[3]);
  }
  const std::string_view text(reinterpret_cast<const char*>(edit),
                              size - static_cast<size_t>(edit - data));
  if (edits == 0) {
    check_round_trip(good_tokenizer(), text);
  } else if (const auto tokenizer = Tokenizer::parse(file); tokenizer.ok()) {
    check_round_trip(*tokenizer, text);
  }
  return 0;
}
