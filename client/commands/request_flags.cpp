#include "client/commands/request_flags.hpp"

#include <algorithm>
#include <charconv>
#include <string_view>

#include "client/utf8.hpp"

namespace cogserve::client {
namespace {

template <typename T>
absl::Status read_number(std::string_view flag, std::string_view text, T* value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
  if (error == std::errc() && end == text.data() + text.size()) return absl::OkStatus();
  const char* wanted = std::is_floating_point_v<T> ? "a number" : "an integer";
  return absl::InvalidArgumentError("--" + std::string(flag) + ": wants " + wanted + ", got \"" +
                                    std::string(text) + "\"");
}

// Leaves `value` absent where the flag was not given.
template <typename T>
void read_optional(std::string_view flag, std::string_view text, std::optional<T>* value,
                   absl::Status* status) {
  if (text.empty() || !status->ok()) return;
  T number{};
  *status = read_number(flag, text, &number);
  if (status->ok()) *value = number;
}

Template template_named(std::string_view name) {
  if (name == "chat") return Template::kChat;
  if (name == "vqa") return Template::kVqa;
  if (name == "base") return Template::kBase;
  return Template::kServerDefault;
}

}  // namespace

void RequestFlags::add_to(OptionTable* table) {
  table->group("Request");
  table->add("model", &model, "NAME", "The served model; any where absent.");
  table->without_environment();  // the server's is a path
  table->add_choice("template", &prompt_template, {"default", "chat", "vqa", "base"},
                    "How the conversation becomes a prompt; default: the server's choice.");
  table->without_environment();  // the server's is the default of every client
  table->add("max-tokens", &max_tokens, "N", "Longest answer.");
  table->add("min-tokens", &min_tokens, "N", "No end token before so many.");
  table->add("temperature", &temperature, "X", "0 (greedy) to 2.");
  table->add("top-p", &top_p, "X", "Above 0, up to 1.");
  table->add("top-k", &top_k, "N", "0 (off) to 1024.");
  table->add("min-p", &min_p, "X", "0 to 1.");
  table->add("repetition-penalty", &repetition_penalty, "X", "0.1 to 2; 1 is off.");
  table->add("presence-penalty", &presence_penalty, "X", "-2 to 2; 0 is off.");
  table->add("frequency-penalty", &frequency_penalty, "X", "-2 to 2; 0 is off.");
  table->add("seed", &seed, "N", "The same seed and question give the same answer.");
  table->add("stop", &stop, "TEXT", "End the answer before this text.");
  table->add("stop-token-id", &stop_token_ids, "ID", "End the answer at this token.");
  table->add("ignore-eos", &ignore_eos, "Do not stop at the model's end tokens.");
  table->add("logprobs", &logprobs, "N",
             "Log-probabilities with 0 to 20 alternatives for each token; shown by --output json "
             "and jsonl.");
  table->add("token-ids", &token_ids, "Also the ids of the answer's tokens (json and jsonl).");
}

absl::Status RequestFlags::apply(ChatRequest* request) const {
  if (!is_utf8(model)) return absl::InvalidArgumentError("--model: is not UTF-8");
  if (!std::all_of(stop.begin(), stop.end(), is_utf8)) {
    return absl::InvalidArgumentError("--stop: is not UTF-8");
  }
  absl::Status status;
  Sampling& sampling = request->sampling;
  Stopping& stopping = request->stopping;
  request->model = model;
  request->prompt_template = template_named(prompt_template);
  request->return_token_ids = token_ids;
  stopping.ignore_eos = ignore_eos;
  stopping.stop = stop;
  read_optional("max-tokens", max_tokens, &stopping.max_tokens, &status);
  read_optional("min-tokens", min_tokens, &stopping.min_tokens, &status);
  read_optional("temperature", temperature, &sampling.temperature, &status);
  read_optional("top-p", top_p, &sampling.top_p, &status);
  read_optional("top-k", top_k, &sampling.top_k, &status);
  read_optional("min-p", min_p, &sampling.min_p, &status);
  read_optional("repetition-penalty", repetition_penalty, &sampling.repetition_penalty, &status);
  read_optional("presence-penalty", presence_penalty, &sampling.presence_penalty, &status);
  read_optional("frequency-penalty", frequency_penalty, &sampling.frequency_penalty, &status);
  read_optional("seed", seed, &sampling.seed, &status);
  read_optional("logprobs", logprobs, &request->logprobs, &status);
  for (const auto& text : stop_token_ids) {
    if (!status.ok()) break;
    status = read_number("stop-token-id", text, &stopping.stop_token_ids.emplace_back());
  }
  return status;
}

}  // namespace cogserve::client
