// Stop strings and tokens from the input: what TextStream shows, piece by piece, must be the whole
// text cut at the first stop string, and never half a character.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "server/text/text_stream.hpp"
#include "server/text/utf8.hpp"

namespace {

using namespace cogserve::text;

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

const Tokenizer& tokenizer() {
  static const Tokenizer tokenizer =
      Tokenizer::load(COGSERVE_SOURCE_DIR "/tests/data/tokenizer/tokenizer.json").value();
  return tokenizer;
}

// Bytes of the input, taken from the front.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  bool empty() const { return size_ == 0; }
  uint8_t take() {
    if (size_ == 0) return 0;
    --size_;
    return *data_++;
  }

 private:
  const uint8_t* data_;
  size_t size_;
};

// Half of all tokens are single bytes, so that characters arrive in pieces.
int32_t take_token(Input* input) {
  const uint8_t kind = input->take();
  const auto byte = static_cast<char>(input->take());
  if (kind < 128) return tokenizer().token_to_id(std::string_view(&byte, 1)).value();
  return ((kind & 0x7F) << 8 | static_cast<uint8_t>(byte)) % (tokenizer().vocab_size() + 8) - 4;
}

std::vector<std::string> take_stops(Input* input) {
  std::vector<std::string> stops;
  for (int count = input->take() % 5; count > 0; --count) {
    std::vector<int32_t> ids;
    for (int length = 1 + input->take() % 6; length > 0; --length) ids.push_back(take_token(input));
    std::string stop = tokenizer().decode(ids);
    if (!stop.empty()) stops.push_back(std::move(stop));
  }
  return stops;
}

// The definition of what is shown, on the whole text at once.
std::string cut_at_first_stop(const std::string& text, const std::vector<std::string>& stops) {
  for (size_t end = 1; end <= text.size(); ++end) {
    size_t longest = 0;
    const std::string_view head(text.data(), end);
    for (const std::string& stop : stops) {
      if (head.ends_with(stop)) longest = std::max(longest, stop.size());
    }
    if (longest > 0) return text.substr(0, end - longest);
  }
  return text;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(data, size);
  TextStreamOptions options;
  options.strip_leading_space = (input.take() & 1) != 0;
  options.stops = take_stops(&input);
  std::vector<int32_t> ids;
  while (!input.empty()) ids.push_back(take_token(&input));

  std::string whole = tokenizer().decode(ids);
  if (options.strip_leading_space && whole.starts_with(' ')) whole.erase(0, 1);
  const std::string expected = cut_at_first_stop(whole, options.stops);

  TextStream stream(&tokenizer(), options);
  std::string shown;
  for (const int32_t id : ids) {
    const std::string delta = stream.push(id);
    require(find_invalid_utf8(delta) == std::string_view::npos, "half a character was shown");
    shown += delta;
    require(expected.starts_with(shown), "part of a stop string was shown");
  }
  shown += stream.finish();
  require(shown == expected, "the text shown is not the whole text cut at the first stop");
  require(stream.stopped() || shown == whole, "text is missing though nothing stopped it");
  return 0;
}
