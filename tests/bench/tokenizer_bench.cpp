// Tokenizer speed in bytes per second, encoding on one thread. By default with the small tokenizer
// of the tests; COGSERVE_BENCH_TOKENIZER names another tokenizer.json, such as a real checkpoint's.

#include <benchmark/benchmark.h>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "server/text/text_stream.hpp"
#include "server/text/tokenizer.hpp"

namespace {

using cogserve::text::TextStream;
using cogserve::text::Tokenizer;

constexpr size_t kTextBytes = 256 * 1024;

std::string tokenizer_path() {
  const char* const path = std::getenv("COGSERVE_BENCH_TOKENIZER");
  return path != nullptr ? path : COGSERVE_SOURCE_DIR "/tests/data/tokenizer/tokenizer.json";
}

const Tokenizer& tokenizer() {
  static const Tokenizer tokenizer = Tokenizer::load(tokenizer_path()).value();
  return tokenizer;
}

std::string repeat(const std::string& unit) {
  std::string text;
  while (text.size() < kTextBytes) text += unit;
  return text;
}

const char* const kEnglish =
    "The picture shows a narrow street in the old town. Two children are riding their bicycles "
    "past "
    "a bakery, and an elderly woman, who doesn't seem to notice them, is reading the newspaper at "
    "a small table. It's 8:45 on the clock above the door; the shop opened in 1987.\n";
const char* const kChinese =
    "图片里是老城区的一条窄街。两个孩子骑着自行车经过一家面包店，一位老太太坐在小桌旁看报纸，"
    "好像没有注意到他们。门上的钟指着八点四十五分，这家店是1987年开的。\n";
const char* const kCode =
    "for (size_t i = 0; i + 1 < symbols.size(); ++i) {\n"
    "    if (symbols[i].rank == kNoRank) continue;  // nothing to merge here\n"
    "    heap.push_back({symbols[i].rank, static_cast<int>(i)});\n}\n";

void load(benchmark::State& state) {
  const std::string path = tokenizer_path();
  for (auto _ : state) benchmark::DoNotOptimize(Tokenizer::load(path));
}

void encode(benchmark::State& state, const char* unit) {
  const std::string text = repeat(unit);
  const Tokenizer& loaded = tokenizer();
  for (auto _ : state) benchmark::DoNotOptimize(loaded.encode(text));
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(text.size()));
}

// Token by token to text, with four stop strings that never come.
void stream(benchmark::State& state, const char* unit) {
  const std::string text = repeat(unit);
  const std::vector<int32_t> ids = tokenizer().encode(text).value();
  for (auto _ : state) {
    TextStream stream(&tokenizer(), {.stops = {"<stop>", "\n\n\n", "Question:", "the the"}});
    size_t shown = 0;
    for (const int32_t id : ids) shown += stream.push(id).size();
    benchmark::DoNotOptimize(shown);
  }
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(text.size()));
}

BENCHMARK(load)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(encode, english, kEnglish)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(encode, chinese, kChinese)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(encode, code, kCode)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(encode, one_letter, "a")->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(encode, spaces, " ")->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(encode, newlines_and_spaces, "\n ")->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(encode, one_cjk, "中")->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(encode, emoji, "😀")->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(encode, alternating, "a中")->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(encode, alphabet, "abcdefghijklmnopqrstuvwxyz")->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(stream, english, kEnglish)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(stream, chinese, kChinese)->Unit(benchmark::kMillisecond);

}  // namespace

BENCHMARK_MAIN();
