#include "client/bench/bench_flags.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <sstream>

#include "client/utf8.hpp"

namespace cogserve::client {
namespace {

constexpr int kMaxEdge = 16384;
constexpr int kMaxCount = 1'000'000;
constexpr int kMaxConnections = 256;
constexpr std::chrono::hours kLongestRun{24 * 30};
constexpr const char* kCustom = "custom_image";

Error usage(const char* flag, std::string message) {
  return {.code = Code::kInvalidArgument,
          .reason = "USAGE",
          .field = flag,
          .message = std::move(message)};
}

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, ',');) parts.push_back(part);
  return parts;
}

std::optional<int> if_given(int value) { return value > 0 ? std::optional(value) : std::nullopt; }

}  // namespace

void BenchFlags::add_to(OptionTable* table) {
  add_workload_flags(table);
  add_load_flags(table);
  add_result_flags(table);
  connection.retries = 0;
  connection.add_to(table);
}

void BenchFlags::add_workload_flags(OptionTable* table) {
  table->group("Workload");
  table->add_choice("workload", &workload, {"w1", "w2", "w3", "w4", "w5"},
                    "w1: a new picture and a short question each. w2: text only. w3: 32 questions "
                    "about each picture. w4: conversations of six turns. w5: half w1, 30 % w2, "
                    "20 % w3. Takes the place of --dataset-name.");
  table->add_choice("dataset-name", &dataset_name, {"random-mm", "random", kCustom},
                    "random-mm is w1, random is w2, custom_image reads --dataset-path.");
  table->add("dataset-path", &dataset_path, "FILE",
             "JSON lines {\"prompt\": text, \"image\": path}.");
  table->add("random-input-len", &random_input_len, "TOKENS",
             "Of each question, without the picture; 0: the workload's own.");
  table->add("random-output-len", &random_output_len, "TOKENS",
             "Of each answer, at most; 0: the workload's own.");
  table->add("questions-per-image", &questions_per_image, "N",
             "Requests that share a picture; 0: the workload's own.");
  table->add("image-width", &image_width, "PIXELS", "Of made pictures; 0: the model's own size.");
  table->add("image-height", &image_height, "PIXELS", "Of made pictures; 0: the model's own size.");
  table->add_choice("image-format", &image_format, {"jpeg", "png"}, "Of made pictures.");
  table->add_choice("image-content", &image_content, {"gradient", "noise"},
                    "gradient compresses like a photograph, noise not at all.");
  table->add("model", &model, "NAME", "The served model; any where absent.");
  table->without_environment();  // the server's is a path
  table->add_choice("template", &prompt_template, {"default", "chat", "vqa", "base"},
                    "How the conversation becomes a prompt; default: the server's choice.");
  table->without_environment();  // the server's is the default of every client
  table->add("temperature", &temperature, "X", "0 (greedy) to 2.");
  table->add("ignore-eos", &ignore_eos, "Make every answer as long as the workload says.");
}

void BenchFlags::add_load_flags(OptionTable* table) {
  table->group("Load");
  table->add("num-prompts", &num_prompts, "N",
             "Requests (w4: conversations); 0: 8 times --max-concurrency and at least 64, or what "
             "--duration allows.");
  table->add("num-warmups", &num_warmups, "N",
             "Sent before, not counted; -1: 2 times --max-concurrency, at most --num-prompts.");
  table->add("max-concurrency", &max_concurrency, "N",
             "Requests (w4: conversations) at the same time; 0: no limit.");
  table->add("request-rate", &request_rate, "PER_SECOND", "When requests are due; inf: at once.");
  table->add("burstiness", &burstiness, "X",
             "Shape of the gamma distribution of gaps: 1 is Poisson, less comes in bursts.");
  table->add("duration", &duration, "DURATION",
             "No new request (w4: conversation) after this time; 0: no limit.");
  table->add("think-time", &think_time, "DURATION", "w4: before each next question.");
  table->add("cancel-rate", &cancel_rate, "SHARE", "Of requests cancelled half-way, 0 to 1.");
  table->add(
      "connections", &connections, "N",
      "0: a new one for each 16 calls in flight. Given fewer, calls above the server's limit "
      "for one connection (32 unless told) wait in the client, where it cannot refuse them.");
  table->add("seed", &seed, "N", "Of questions, pictures, arrivals and cancellations.");
}

void BenchFlags::add_result_flags(OptionTable* table) {
  table->group("Result");
  table->add("goodput", &goodput, "LIMITS",
             "Also count requests that keep all of these, in ms: ttft:2000 tpot:60 e2el:5000.");
  table->add("percentile-metrics", &percentile_metrics, "NAMES",
             "In the table; of ttft, tpot, itl, e2el, queue, vision.");
  table->add("metric-percentiles", &metric_percentiles, "LIST", "0 to 100.");
  table->add("save-result", &save_result, "Write a JSON file.");
  table->add("save-detailed", &save_detailed, "With the figures of each request.");
  table->add("result-dir", &result_dir, "FOLDER", "Where to.");
  table->add("result-filename", &result_filename, "FILE",
             "Its name; absent: made of label, rate, concurrency, model and time.");
  table->add("label", &label, "TEXT", "Goes into the result.");
}

std::optional<Error> BenchFlags::check(const std::vector<std::string>& positional) {
  if (!positional.empty() && goodput.empty()) {
    return usage("", "unexpected: " + positional.front());
  }
  for (const auto& pair : positional) goodput += " " + pair;
  auto parsed = parse_goodput(goodput);
  if (!parsed.ok()) return parsed.error();
  limits = *parsed;
  if (auto error = check_workload_flags()) return error;
  if (auto error = check_load_flags()) return error;
  return read_result_flags();
}

std::optional<Error> BenchFlags::check_workload_flags() const {
  if (!is_utf8(model)) return usage("--model", "is not UTF-8");
  const std::pair<const char*, int> lengths[] = {{"--random-input-len", random_input_len},
                                                 {"--random-output-len", random_output_len},
                                                 {"--questions-per-image", questions_per_image}};
  for (const auto& [flag, value] : lengths) {
    if (value < 0 || value > kMaxCount) return usage(flag, "wants 0 to 1000000");
  }
  const std::pair<const char*, int> edges[] = {{"--image-width", image_width},
                                               {"--image-height", image_height}};
  for (const auto& [flag, value] : edges) {
    if (value < 0 || value > kMaxEdge) return usage(flag, "wants 1 to 16384, or 0");
  }
  if (workload_name() == kCustom && dataset_path.empty()) {
    return usage("--dataset-path", "custom_image needs a file");
  }
  return std::nullopt;
}

std::optional<Error> BenchFlags::check_load_flags() const {
  if (num_prompts < 0) return usage("--num-prompts", "wants at least 0");
  if (num_warmups < -1) return usage("--num-warmups", "wants at least -1");
  if (max_concurrency < 0 || max_concurrency > kMaxCount) {
    return usage("--max-concurrency", "wants 0 to 1000000");
  }
  if (!(request_rate > 0)) return usage("--request-rate", "wants more than 0");
  if (!(burstiness > 0) || std::isinf(burstiness)) {
    return usage("--burstiness", "wants a number above 0");
  }
  if (!(cancel_rate >= 0 && cancel_rate <= 1)) return usage("--cancel-rate", "wants 0 to 1");
  const std::pair<const char*, std::chrono::milliseconds> times[] = {{"--duration", duration},
                                                                     {"--think-time", think_time}};
  for (const auto& [flag, value] : times) {
    if (value.count() < 0 || value > kLongestRun) return usage(flag, "wants 0 to 30 days");
  }
  if (connections < 0 || connections > kMaxConnections) {
    return usage("--connections", "wants 0 to 256");
  }
  if (max_concurrency == 0 && std::isinf(request_rate) && num_prompts == 0) {
    return usage("--num-prompts", "say how many, or give --max-concurrency or --request-rate");
  }
  return std::nullopt;
}

std::optional<Error> BenchFlags::read_result_flags() {
  metrics = split(percentile_metrics);
  for (const auto& name : metrics) {
    if (std::find(kMetricNames.begin(), kMetricNames.end(), name) == kMetricNames.end()) {
      return usage("--percentile-metrics", "does not know " + name);
    }
  }
  for (const auto& text : split(metric_percentiles)) {
    double percent = -1;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), percent);
    if (error != std::errc() || end != text.data() + text.size() || !(percent >= 0) ||
        percent > 100) {
      return usage("--metric-percentiles", "wants 0 to 100, got \"" + text + "\"");
    }
    percents.push_back(percent);
  }
  return std::nullopt;
}

Result<Workload::Options> BenchFlags::workload_options(const ModelInfo& model_info,
                                                       double tokens_per_word) const {
  Workload::Options options;
  // A custom data set takes w1's answer length.
  const std::string name = workload_name() == kCustom ? "w1" : workload_name();
  options.mix = workload_mix(name, if_given(random_input_len), if_given(random_output_len),
                             if_given(questions_per_image));
  options.picture = {.width = image_width > 0 ? image_width : model_info.image_size,
                     .height = image_height > 0 ? image_height : model_info.image_size,
                     .png = image_format == "png",
                     .noise = image_content == "noise"};
  options.seed = seed;
  options.tokens_per_word = tokens_per_word;
  if (workload_name() == kCustom) {
    auto prompts = read_custom_prompts(dataset_path);
    if (!prompts.ok()) return prompts.error();
    options.custom = *std::move(prompts);
    return options;
  }
  for (const auto& [shape, share] : options.mix) {
    const int longest = (shape.image ? model_info.image_tokens : 0) +
                        shape.turns * (shape.input_tokens + shape.output_tokens);
    if (longest > model_info.limits.max_model_len) {
      return usage("--random-input-len", "a conversation of " + std::to_string(longest) +
                                             " tokens does not fit the model's " +
                                             std::to_string(model_info.limits.max_model_len) +
                                             "; lower --random-input-len or --random-output-len");
    }
  }
  return options;
}

LoadOptions BenchFlags::load_options() const {
  LoadOptions options;
  options.base.model = model;
  options.base.prompt_template = prompt_template == "chat"   ? Template::kChat
                                 : prompt_template == "vqa"  ? Template::kVqa
                                 : prompt_template == "base" ? Template::kBase
                                                             : Template::kServerDefault;
  options.base.sampling.temperature = static_cast<float>(temperature);
  options.base.stopping.ignore_eos = ignore_eos;
  if (sessions() > 0) options.sessions = sessions();
  options.duration = duration;
  options.max_concurrency = max_concurrency;
  options.request_rate = request_rate;
  options.burstiness = burstiness;
  options.think_time = think_time;
  options.cancel_rate = cancel_rate;
  options.seed = seed;
  return options;
}

uint64_t BenchFlags::sessions() const {
  if (num_prompts > 0) return static_cast<uint64_t>(num_prompts);
  if (duration.count() > 0) return 0;
  return static_cast<uint64_t>(std::max(64, 8 * max_concurrency));
}

uint64_t BenchFlags::warmups() const {
  if (num_warmups >= 0) return static_cast<uint64_t>(num_warmups);
  const uint64_t wanted = 2 * static_cast<uint64_t>(std::max(1, max_concurrency));
  return sessions() > 0 ? std::min(wanted, sessions()) : wanted;
}

const std::string& BenchFlags::workload_name() const {
  return workload.empty() ? dataset_name : workload;
}

}  // namespace cogserve::client
