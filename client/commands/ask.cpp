#include <algorithm>
#include <atomic>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include "client/commands.hpp"
#include "client/commands/connection_flags.hpp"
#include "client/commands/files.hpp"
#include "client/commands/ordered_printer.hpp"
#include "client/commands/report.hpp"
#include "client/commands/request_flags.hpp"
#include "client/commands/timed_answer.hpp"
#include "client/conversation.hpp"
#include "client/utf8.hpp"

namespace cogserve {
namespace {

using client::Result;

struct AskFlags {
  std::string image;
  std::vector<std::string> questions;
  bool conversation = false;
  int concurrency = 4;
  bool stream = true;
  bool verbose = false;
  std::string output = "text";
  client::ConnectionFlags connection;
  client::RequestFlags request;

  void add_to(OptionTable* table) {
    table->group("Ask");
    table->add("image", &image, "FILE", "JPEG, PNG or WebP; - reads stdin.");
    table->add("question", &questions, "TEXT", "What to ask.");
    table->add("conversation", &conversation,
               "Ask the questions one after the other in one conversation, not side by side.");
    table->add("concurrency", &concurrency, "N", "Questions under way at the same time.");
    table->add("stream", &stream, "Show the answer as it is made.");
    table->add_choice("output", &output, {"text", "json", "jsonl"},
                      "text; one JSON document of all answers; or one line of JSON for each.");
    table->add("verbose", &verbose, "Also counts, speed and stage times of each answer (stderr).");
    connection.add_to(table);
    request.add_to(table);
  }
};

class Asker {
 public:
  Asker(client::Client* server, const AskFlags& flags, client::ChatRequest base,
        std::optional<client::Image> image)
      : server_(server),
        flags_(flags),
        base_(std::move(base)),
        image_(std::move(image)),
        printer_(flags.questions.size()),
        answers_(flags.questions.size()) {}

  int run() {
    if (flags_.conversation) {
      ask_in_turn();
    } else {
      ask_side_by_side();
    }
    return report();
  }

 private:
  // Stops at the first failure: what follows would lack its context.
  void ask_in_turn() {
    client::Conversation conversation;
    for (size_t i = 0; i < flags_.questions.size(); ++i) {
      conversation.ask(flags_.questions[i], i == 0 ? image_ : std::nullopt);
      ask(i, conversation);
      if (!answers_[i]->answer.ok()) return;
      conversation.answer(answers_[i]->answer->text);
    }
  }

  void ask_side_by_side() {
    std::atomic<size_t> next{0};
    const auto work = [&] {
      for (size_t i = next++; i < flags_.questions.size(); i = next++) {
        ask(i, client::Conversation().ask(flags_.questions[i], image_));
      }
    };
    std::vector<std::thread> threads;
    const size_t count = std::min(flags_.questions.size(), static_cast<size_t>(flags_.concurrency));
    for (size_t i = 1; i < count; ++i) threads.emplace_back(work);
    work();
    for (auto& thread : threads) thread.join();
  }

  void ask(size_t index, const client::Conversation& conversation) {
    client::ChatRequest request = base_;
    request.messages = conversation.messages();
    const bool text = flags_.output == "text";
    if (text && flags_.questions.size() > 1) {
      printer_.write(index, "> " + flags_.questions[index] + "\n");
    }
    bool shown = false;
    answers_[index] =
        client::ask_timed(server_, request, flags_.stream, [&](std::string_view piece) {
          shown = true;
          if (text) printer_.write(index, piece);
        });
    if (text && (shown || answers_[index]->answer.ok())) printer_.write(index, "\n");
    printer_.finish(index);
  }

  // Everything that is not shown as it comes; returns the exit code: the first failure's.
  int report() const {
    int code = 0;
    auto list = nlohmann::ordered_json::array();
    for (size_t i = 0; i < answers_.size(); ++i) {
      if (!answers_[i]) continue;
      const auto& answer = answers_[i]->answer;
      if (!answer.ok()) {
        client::print_error(answer.error());
        if (code == 0) code = client::exit_code(answer.error());
      } else if (flags_.verbose) {
        client::print_timings(*answer, answers_[i]->first_token_ms);
      }
      if (flags_.output != "text") list.push_back(to_json(i));
    }
    if (flags_.output == "json") {
      std::cout << client::json_text({{"answers", list}}, true) << std::endl;
    } else if (flags_.output == "jsonl") {
      for (const auto& line : list) std::cout << client::json_text(line, false) << '\n';
      std::cout << std::flush;
    }
    return code;
  }

  nlohmann::ordered_json to_json(size_t index) const {
    const auto& timed = *answers_[index];
    nlohmann::ordered_json json = {{"question", flags_.questions[index]}};
    if (timed.answer.ok()) {
      json.update(client::answer_json(*timed.answer));
      if (timed.first_token_ms) json["first_token_ms"] = *timed.first_token_ms;
    } else {
      json["error"] = client::error_json(timed.answer.error());
    }
    return json;
  }

  client::Client* server_;
  const AskFlags& flags_;
  client::ChatRequest base_;
  std::optional<client::Image> image_;
  client::OrderedPrinter printer_;
  std::vector<std::optional<client::TimedAnswer>> answers_;
};

}  // namespace

int run_ask(const std::vector<std::string>& arguments) {
  AskFlags flags;
  OptionTable table("ask", "--image FILE --question TEXT [--question TEXT...] [options]",
                    "one or many questions about one picture (or about none).");
  flags.add_to(&table);
  std::vector<std::string> positional;
  if (const auto code = client::parse_arguments(&table, arguments, &positional)) return *code;
  flags.questions.insert(flags.questions.end(), positional.begin(), positional.end());
  if (flags.questions.empty()) {
    return client::fail(client::kExitUsage, "USAGE", "--question", "nothing to ask");
  }
  if (!std::all_of(flags.questions.begin(), flags.questions.end(), client::is_utf8)) {
    return client::fail(client::kExitUsage, "USAGE", "--question", client::kQuestionNotUtf8);
  }
  if (flags.concurrency < 1) {
    return client::fail(client::kExitUsage, "USAGE", "--concurrency",
                        "wants at least 1, got " + std::to_string(flags.concurrency));
  }
  client::ChatRequest base;
  if (const absl::Status status = flags.request.apply(&base); !status.ok()) {
    return client::fail(client::kExitUsage, "USAGE", "", std::string(status.message()));
  }
  std::optional<client::Image> image;
  if (!flags.image.empty()) {
    auto bytes = client::read_file(flags.image);
    if (!bytes.ok()) {
      return client::fail(client::kExitLocal, bytes.error().reason, "--image",
                          bytes.error().message);
    }
    image = client::Image{*std::move(bytes)};
  }
  auto server = flags.connection.connect();
  if (!server.ok()) return client::fail(server.error());
  return Asker(&*server, flags, std::move(base), std::move(image)).run();
}

}  // namespace cogserve
