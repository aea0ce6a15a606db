// The engine from end to end with random weights at the shape of a config.json: seconds to load,
// time to the first token of a picture, prefill, decoding at 1 to 64 sequences with 2.4K tokens
// each, and the longest gap between tokens while pictures keep arriving.
//
//   gpu_model_bench --model tests/gpu/models/cogvlm2-19b [--device cuda:0] [--out FILE.json]
//                   [--quantization none|int4] [--gpu-memory BYTES] [--max-itl-ms MS]
//                   [--batches 1,8,32,64]
//
// --gpu-memory caps what the engine may use, as the server's flag does; --batches are the numbers
// of sequences that decode together, for a cap that leaves no room for all.
//
// The device's memory in use is all that is not free on it, the driver's and other processes' part
// included: what was in use before there was a context is not to be had without one.
//
// A model with fewer than 8192 positions, such as tests/gpu/models/toy, is asked for less: that
// tries the program itself on any device. Everything is seen from outside: streams are read as a
// server reads them. Exits with 3 where there is no such device, and with 1 if the engine gave
// notice of a step that failed or of slower work than it should be.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <functional>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "engine/base/check.hpp"
#include "engine/engine_loop.hpp"
#include "tests/bench/flags.hpp"
#include "tests/bench/gpu_results.hpp"

namespace cogserve {
namespace {

using bench::GpuResults;
using Streams = std::vector<std::shared_ptr<TokenStream>>;

// How much of everything: the model's own, or as much as a toy bears.
struct Load {
  std::vector<int> sequences;
  int context;         // tokens of a sequence when it begins to decode
  int decoded_tokens;  // of the last sequence, that are timed
  int most_tokens;     // of a sequence
  int pictures;        // that arrive one after the other
  int max_itl_ms = 0;  // the target that the engine was given
};
const Load kLoad = {{1, 8, 32, 64}, 2400, 48, 8192, 6};
const Load kSmallLoad = {{1, 4}, 60, 12, 500, 3};

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

double ms(std::chrono::nanoseconds time) {
  return std::chrono::duration<double, std::milli>(time).count();
}

Request make_request(const ModelConfig& model, uint64_t seed, int text_tokens, bool with_picture,
                     int max_tokens) {
  std::mt19937_64 random(seed);
  Request request;
  for (int i = 0; i < text_tokens; ++i) {
    request.text_ids.push_back(static_cast<int32_t>(4 + random() % (model.vocab / 2)));
  }
  if (with_picture) {
    std::uniform_real_distribution<float> uniform(-2.0f, 2.0f);
    request.pixels.resize(size_t{3} * model.vision.image_size * model.vision.image_size);
    for (float& pixel : request.pixels) pixel = uniform(random);
  }
  request.sampling.temperature = 0.0f;
  request.max_tokens = max_tokens;
  request.ignore_eos = true;
  return request;
}

std::shared_ptr<TokenStream> submit(Engine& engine, Request request) {
  auto stream = engine.submit(std::move(request));
  check(stream.ok(), stream.status().ToString().c_str());
  return *std::move(stream);
}

// Reads a stream to its end, which must be a good one.
EndEvent read(TokenStream& stream) {
  while (true) {
    const TokenStream::Event event = stream.wait();
    if (const auto* end = std::get_if<EndEvent>(&event)) {
      check(end->status.ok(), end->status.ToString().c_str());
      return *end;
    }
  }
}

class ModelBench {
 public:
  ModelBench(Engine* engine, const Load& load, GpuResults* results)
      : engine_(*engine), model_(engine->info().model), load_(load), results_(*results) {}

  // All of it; `after_each` is called between the measurements.
  void run(const std::function<void()>& after_each) {
    warm_up();
    first_token();
    after_each();
    for (const int sequences : load_.sequences) {
      decode(sequences);
      after_each();
    }
    gap_while_pictures_arrive();
    after_each();
  }

 private:
  // The first requests of each shape let the libraries choose their kernels, and those of each
  // batch take the memory that its recorded steps need.
  void warm_up() {
    for (const bool picture : {true, false}) {
      read(*submit(engine_, request(0, picture, 2)));
    }
    for (const int sequences : engine_.info().decode_batches) {
      Streams streams;
      for (int i = 0; i < sequences; ++i) {
        streams.push_back(submit(engine_, make_request(model_, 400 + i, 4, false, kFirstTokens)));
      }
      for (const auto& stream : streams) read(*stream);
    }
  }

  // By the engine's own clock; the prefill of as much text stands beside that of a picture.
  void first_token() {
    double text = 1e9, vision = 1e9, prefill = 1e9, both = 1e9;
    for (int i = 0; i < 3; ++i) {
      const RequestTimings plain = read(*submit(engine_, request(10 + i, false, 1))).timings;
      const RequestTimings seen = read(*submit(engine_, request(20 + i, true, 1))).timings;
      text = std::min(text, ms(plain.prefill));
      vision = std::min(vision, ms(seen.vision));
      prefill = std::min(prefill, ms(seen.prefill));
      both = std::min(both, ms(seen.vision + seen.prefill));
    }
    results_.add("first_token", {{"prompt_tokens", 1.0 * prompt_tokens()},
                                 {"with_picture_ms", both},
                                 {"vision_ms", vision},
                                 {"prefill_ms", prefill},
                                 {"prefill_of_text_ms", text}});
  }

  // Steps in which all sequences decode: the last one's, since it is the last to be prefilled. The
  // others go on until it has ended. Its first tokens do not count: in the first steps of a batch
  // the backend chooses kernels and records what it does. Where the cache has no room for all of
  // them, the others' tokens included, that is the result.
  void decode(int sequences) {
    const double needed = 2.0 * sequences * load_.context;
    const auto room = static_cast<double>(engine_.info().kv_tokens());
    if (needed > room) {
      results_.add("decode_" + std::to_string(sequences),
                   {{"needed_tokens", needed}, {"room_tokens", room}});
      return;
    }
    double best = 1e9;
    double context = 0;
    const int attempts = sequences > 8 ? 1 : 2;  // prefill of many takes its time
    for (int attempt = 0; attempt < attempts; ++attempt) {
      Streams others;
      for (int i = 1; i < sequences; ++i) {
        others.push_back(submit(engine_, make_request(model_, 100 + i, load_.context - 1, false,
                                                      load_.most_tokens - load_.context)));
      }
      const auto last = submit(engine_, make_request(model_, 100, load_.context - 1, false,
                                                     kFirstTokens + load_.decoded_tokens));
      best = std::min(best, ms_per_token(*last));
      context = load_.context + kFirstTokens + load_.decoded_tokens / 2.0;
      for (const auto& stream : others) stream->cancel();
      for (const auto& stream : others) context = std::max(context, read_to_the_end(*stream));
    }
    results_.add("decode_" + std::to_string(sequences),
                 {{"longest_context_tokens", context},
                  {"step_ms", best},
                  {"tokens_per_s", 1000.0 * sequences / best}});
  }

  void gap_while_pictures_arrive() {
    constexpr int kStreams = 4;
    Streams streams;
    for (int i = 0; i < kStreams; ++i) {
      streams.push_back(
          submit(engine_, make_request(model_, 200 + i, load_.context / 8, false, load_.context)));
    }
    for (const auto& stream : streams) stream->wait();
    std::thread pictures([&] {
      for (int i = 0; i < load_.pictures; ++i) {
        read(*submit(engine_, request(300 + i, true, 1)));
      }
      for (const auto& stream : streams) stream->cancel();
    });
    std::vector<double> longest(kStreams);
    std::vector<std::thread> readers;
    for (int i = 0; i < kStreams; ++i) {
      readers.emplace_back([&, i] { longest[i] = longest_gap_ms(*streams[i]); });
    }
    for (std::thread& reader : readers) reader.join();
    pictures.join();
    results_.add("gap_while_pictures_arrive",
                 {{"longest_ms", *std::max_element(longest.begin(), longest.end())},
                  {"max_itl_ms", 1.0 * load_.max_itl_ms},
                  {"streams", kStreams},
                  {"pictures", 1.0 * load_.pictures}});
  }

  int prompt_tokens() const { return 1 + model_.vision.image_tokens() + kQuestion; }

  Request request(uint64_t seed, bool picture, int max_tokens) const {
    return make_request(model_, seed, picture ? kQuestion : prompt_tokens() - 1, picture,
                        max_tokens);
  }

  // From the last of the first tokens to the end, which must be a good one.
  double ms_per_token(TokenStream& stream) const {
    std::vector<Clock::time_point> arrived;
    TokenStream::Event event = stream.wait();
    for (; std::holds_alternative<TokenEvent>(event); event = stream.wait()) {
      arrived.push_back(Clock::now());
    }
    const absl::Status& status = std::get<EndEvent>(event).status;
    check(status.ok(), status.ToString().c_str());
    return ms(arrived.back() - arrived[kFirstTokens - 1]) / load_.decoded_tokens;
  }

  // Tokens of a sequence that was cancelled, which must have been at work until then.
  double read_to_the_end(TokenStream& stream) const {
    while (true) {
      const TokenStream::Event event = stream.wait();
      if (const auto* end = std::get_if<EndEvent>(&event)) {
        check(end->status.code() == absl::StatusCode::kCancelled,
              "the sequences decode all together");
        return end->prompt_tokens + end->completion_tokens;
      }
    }
  }

  static double longest_gap_ms(TokenStream& stream) {
    double longest = 0;
    Clock::time_point last = Clock::now();
    while (std::holds_alternative<TokenEvent>(stream.wait())) {
      const Clock::time_point now = Clock::now();
      longest = std::max(longest, ms(now - last));
      last = now;
    }
    return longest;
  }

  static constexpr int kFirstTokens = 8;  // that are not timed
  static constexpr int kQuestion = 49;    // tokens: 2356 with a picture of the real model

  Engine& engine_;
  const ModelConfig& model_;
  const Load& load_;
  GpuResults& results_;
};

// The most that was seen in use on a device.
class MemoryInUse {
 public:
  explicit MemoryInUse(const Backend& device) : device_(device) {}
  void look() { most_ = std::max(most_, device_.total_memory() - device_.available_memory()); }
  int64_t most() const { return most_; }

 private:
  const Backend& device_;
  int64_t most_ = 0;
};

// "1,8" -> {1, 8}
std::vector<int> parse_batches(const std::string& text) {
  std::vector<int> batches;
  std::stringstream words(text);
  for (std::string word; std::getline(words, word, ',');) batches.push_back(std::stoi(word));
  return batches;
}

EngineConfig take_config(int& argc, char** argv) {
  EngineConfig config;
  config.device = bench::take_text(argc, argv, "--device", "cuda:0");
  config.model_dir = bench::take_text(argc, argv, "--model", "");
  config.formats =
      parse_weight_formats(bench::take_text(argc, argv, "--quantization", "none"), "auto", "bf16");
  config.gpu_memory = std::stoll(bench::take_text(argc, argv, "--gpu-memory", "0"));
  config.max_itl = std::chrono::milliseconds(bench::take_flag(argc, argv, "--max-itl-ms", 0));
  config.load_format = LoadFormat::kDummy;
  config.seed = 1;
  config.outbox_tokens = kLoad.most_tokens;  // sequences that nobody reads go on
  return config;
}

int run(int argc, char** argv) {
  const std::string out = bench::take_text(argc, argv, "--out", "");
  const std::string batches = bench::take_text(argc, argv, "--batches", "");
  const EngineConfig config = take_config(argc, argv);
  auto backend = make_backend(config.device, 0);
  if (!backend.ok()) {
    std::fprintf(stderr, "no CUDA device: %s\n", std::string(backend.status().message()).c_str());
    return bench::kNoDevice;
  }
  MemoryInUse memory(**backend);
  const Clock::time_point begin = Clock::now();
  std::atomic<int> notices = 0;  // steps that failed or are slower than they should be
  auto engine = start_engine(config, *std::move(backend), nullptr, [&](std::string_view what) {
    ++notices;
    std::fprintf(stderr, "notice: %.*s\n", static_cast<int>(what.size()), what.data());
  });
  check(engine.ok(), engine.status().ToString().c_str());
  const double seconds = seconds_since(begin);
  const EngineInfo& info = (*engine)->info();
  std::printf("%s, %s\n", info.device.c_str(), info.dtype.c_str());
  GpuResults results(out);
  results.add("load", {{"seconds", seconds},
                       {"weights_gb", info.weight_bytes / 1e9},
                       {"gb_per_s", info.weight_bytes / seconds / 1e9},
                       {"kv_tokens", 1.0 * info.kv_tokens()}});
  Load load = info.model.max_positions < kLoad.most_tokens ? kSmallLoad : kLoad;
  if (!batches.empty()) load.sequences = parse_batches(batches);
  load.max_itl_ms = static_cast<int>(config.max_itl.count());
  ModelBench(engine->get(), load, &results).run([&] { memory.look(); });
  results.add("memory", {{"in_use_gb", memory.most() / 1e9}, {"cap_gb", config.gpu_memory / 1e9}});
  return notices == 0 ? 0 : 1;
}

}  // namespace
}  // namespace cogserve

int main(int argc, char** argv) { return cogserve::run(argc, argv); }
