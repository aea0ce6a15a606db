#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string_view>
#include <thread>

#include "client/commands.hpp"
#include "client/commands/connection_flags.hpp"
#include "client/commands/files.hpp"
#include "client/commands/live_board.hpp"
#include "client/commands/report.hpp"
#include "client/commands/timed_answer.hpp"
#include "client/conversation.hpp"

namespace cogserve {
namespace {

using client::pad_to;

constexpr size_t kQuestionColumns = 40;
constexpr size_t kAnswerColumns = 30;

struct Turn {
  std::string question;
  std::string expected;
};

// A drawn picture and the conversation to have about it.
struct Picture {
  std::string name;
  client::Image image;
  std::vector<Turn> turns;
};

client::Result<std::vector<Picture>> read_pictures(const std::string& directory) {
  auto listing = client::read_file(directory + "/questions.json");
  if (!listing.ok()) return listing.error();
  const auto document = nlohmann::json::parse(*listing, nullptr, false);
  const client::Error malformed{.code = client::Code::kInvalidArgument,
                                .reason = "QUESTIONS_FORMAT",
                                .message = "questions.json is not what models/demo/draw.py writes"};
  if (!document.is_array() || document.empty()) return malformed;
  std::vector<Picture> pictures;
  try {
    for (const auto& entry : document) {
      Picture& picture = pictures.emplace_back();
      picture.name = entry.at("file").get<std::string>();
      for (const auto& turn : entry.at("turns")) {
        picture.turns.push_back({turn.at("question"), turn.at("answer")});
      }
      auto bytes = client::read_file(directory + "/" + picture.name);
      if (!bytes.ok()) return bytes.error();
      picture.image.bytes = *std::move(bytes);
    }
  } catch (const nlohmann::json::exception&) {
    return malformed;
  }
  return pictures;
}

std::string trimmed(const std::string& text) {
  const size_t first = text.find_first_not_of(" \n");
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(" \n") - first + 1);
}

// Has the conversations, and counts what came out as expected.
class Demo {
 public:
  explicit Demo(client::Client* server) : server_(server), terminal_(isatty(STDOUT_FILENO) == 1) {}

  // Each picture's conversation in its turn, all pictures at the same time.
  void talk_about(const std::vector<const Picture*>& pictures) {
    std::vector<std::string> lines;
    std::vector<size_t> first_lines;
    for (const Picture* picture : pictures) {
      first_lines.push_back(lines.size());
      for (const Turn& turn : picture->turns) lines.push_back(question_text(*picture, turn));
    }
    client::LiveBoard board(std::move(lines), terminal_);
    std::vector<std::jthread> threads;
    for (size_t i = 0; i < pictures.size(); ++i) {
      threads.emplace_back([this, &board, picture = pictures[i], first = first_lines[i]] {
        converse(*picture, &board, first);
      });
    }
  }

  // The process's exit code.
  int report() const {
    std::cout << '\n'
              << right_ << " of " << asked_ << " answers as expected"
              << (failed_ > 0 ? ", " + std::to_string(failed_) + " calls failed" : "") << ".\n";
    return failed_ > 0 ? client::kExitLocal : 0;
  }

 private:
  static std::string question_text(const Picture& picture, const Turn& turn) {
    return "  " + pad_to(picture.name, 16) + pad_to(turn.question + "  ", kQuestionColumns);
  }

  void converse(const Picture& picture, client::LiveBoard* board, size_t line) {
    client::Conversation conversation;
    for (const Turn& turn : picture.turns) {
      const bool opens = conversation.messages().empty();
      conversation.ask(turn.question, opens ? std::optional(picture.image) : std::nullopt);
      const std::string question = question_text(picture, turn);
      std::string text;
      const auto timed = client::ask_timed(server_, request_for(conversation), /*stream=*/true,
                                           [&](std::string_view piece) {
                                             text += piece;
                                             board->update(line, question + text);
                                           });
      ++asked_;
      if (!timed.answer.ok()) {
        ++failed_;
        board->settle(line, question + "error: " + timed.answer.error().message);
        return;
      }
      board->settle(line++, question + verdict(turn, timed));
      conversation.answer(trimmed(timed.answer->text));
    }
  }

  static client::ChatRequest request_for(const client::Conversation& conversation) {
    client::ChatRequest request;
    request.messages = conversation.messages();
    request.sampling.temperature = 0;
    return request;
  }

  // "red    expected red    ok    first token 12 ms, 310 tokens/s"
  std::string verdict(const Turn& turn, const client::TimedAnswer& timed) {
    const client::Answer& answer = *timed.answer;
    const bool right = trimmed(answer.text) == turn.expected;
    right_ += right ? 1 : 0;
    const double seconds = answer.timings.decode_ms / 1000;
    const int decoded = answer.usage.completion_tokens - 1;
    char speed[64];
    std::snprintf(speed, sizeof speed, "first token %5.1f ms, %4.0f tokens/s",
                  timed.first_token_ms.value_or(0), seconds > 0 ? decoded / seconds : 0.0);
    return pad_to(trimmed(answer.text) + "  ", kAnswerColumns) +
           pad_to("expected " + turn.expected + "  ", kAnswerColumns + 9) +
           (right ? "ok    " : "wrong ") + speed;
  }

  client::Client* const server_;
  const bool terminal_;
  std::atomic<int> asked_{0};
  std::atomic<int> right_{0};
  std::atomic<int> failed_{0};
};

}  // namespace

int run_demo(const std::vector<std::string>& arguments) {
  client::ConnectionFlags connection;
  connection.deadline = std::chrono::seconds(60);
  OptionTable table("demo", "[options] DIRECTORY",
                    "ask the questions that models/demo/draw.py wrote into DIRECTORY, and show "
                    "the answers beside the expected ones.");
  connection.add_to(&table);
  std::vector<std::string> positional;
  if (const auto code = client::parse_arguments(&table, arguments, &positional)) return *code;
  if (positional.size() != 1) {
    return client::fail(client::kExitUsage, "USAGE", "", "name one directory");
  }
  const auto pictures = read_pictures(positional[0]);
  if (!pictures.ok()) return client::fail(pictures.error());
  auto server = connection.connect();
  if (!server.ok()) return client::fail(server.error());
  const auto model = server->get_model();
  if (!model.ok()) return client::fail(model.error());
  std::cout << "Model " << model->name << " in " << model->dtype << " on " << model->device << '\n';
  Demo demo(&*server);
  std::cout << "One conversation:\n";
  demo.talk_about({&pictures->front()});
  std::vector<const Picture*> others;
  for (size_t i = 1; i < pictures->size(); ++i) others.push_back(&(*pictures)[i]);
  if (!others.empty()) {
    std::cout << others.size() << " conversations at the same time:\n";
    demo.talk_about(others);
  }
  return demo.report();
}

}  // namespace cogserve
