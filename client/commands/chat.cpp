#include <unistd.h>

#include <cstdlib>
#include <iostream>
#include <mutex>
#include <optional>

#include "client/commands.hpp"
#include "client/commands/connection_flags.hpp"
#include "client/commands/files.hpp"
#include "client/commands/interrupt.hpp"
#include "client/commands/report.hpp"
#include "client/commands/request_flags.hpp"
#include "client/commands/timed_answer.hpp"
#include "client/conversation.hpp"
#include "client/utf8.hpp"

namespace cogserve {
namespace {

constexpr const char* kHelp =
    "  /image FILE  show the model a picture, with your next question\n"
    "  /reset       begin a new conversation\n"
    "  /help        this list\n"
    "  /quit        leave (so does end of input); Ctrl-C stops an answer, or leaves\n";

// One conversation at the terminal, or a script's lines on stdin.
class ChatSession {
 public:
  ChatSession(client::ChatRequest base, bool stream, bool verbose)
      : base_(std::move(base)),
        stream_(stream),
        verbose_(verbose),
        interactive_(isatty(STDIN_FILENO) == 1) {}

  void show_image(client::Image image) { image_ = std::move(image); }

  // Returns the exit code: for a script that of the last failure, 0 where all went well.
  int run(client::Client* server) {
    server_ = server;
    if (interactive_) std::cerr << "Ask about a picture; /help lists the commands.\n";
    std::string line;
    while (prompt(), std::getline(std::cin, line)) {
      if (!line.empty() && line.back() == '\r') line.pop_back();
      if (line.empty()) continue;
      if (line == "/quit") break;
      if (line.front() == '/') {
        obey(line);
      } else {
        ask(line);
      }
    }
    if (interactive_) std::cerr << '\n';
    return interactive_ ? 0 : code_;
  }

  // From another thread: ends the answer under way; false where there is none.
  bool stop_answer() {
    const std::lock_guard lock(mutex_);
    if (running_ == nullptr) return false;
    running_->cancel();
    return true;
  }

 private:
  void prompt() const {
    if (interactive_) std::cerr << (image_ ? "[picture] > " : "> ") << std::flush;
  }

  void obey(const std::string& line) {
    if (line == "/help") {
      std::cerr << kHelp;
    } else if (line == "/reset") {
      conversation_.clear();
      image_.reset();
    } else if (line.starts_with("/image ")) {
      load_image(line.substr(7));
    } else {
      code_ = client::fail(client::kExitUsage, "USAGE", "",
                           "unknown command " + line.substr(0, line.find(' ')) + "; try /help");
    }
  }

  void load_image(const std::string& path) {
    if (conversation_.has_image()) {
      code_ = client::fail(client::kExitUsage, "IMAGE_COUNT", "/image",
                           "this conversation has its picture; /reset begins a new one");
      return;
    }
    auto bytes = client::read_file(path);
    if (!bytes.ok()) {
      code_ =
          client::fail(client::kExitLocal, bytes.error().reason, "/image", bytes.error().message);
      return;
    }
    image_ = client::Image{*std::move(bytes)};
  }

  void ask(const std::string& question) {
    if (!client::is_utf8(question)) {
      code_ = client::fail(client::kExitUsage, "USAGE", "", client::kQuestionNotUtf8);
      return;
    }
    conversation_.ask(question, image_);
    client::ChatRequest request = base_;
    request.messages = conversation_.messages();
    client::Cancellation cancellation;
    set_running(&cancellation);
    bool shown = false;
    const auto timed = client::ask_timed(
        server_, request, stream_,
        [&shown](std::string_view text) {
          shown = true;
          std::cout << text << std::flush;
        },
        &cancellation);
    set_running(nullptr);
    if (shown || timed.answer.ok()) std::cout << std::endl;
    if (timed.answer.ok()) {
      conversation_.answer(timed.answer->text);
      image_.reset();
      if (verbose_) client::print_timings(*timed.answer, timed.first_token_ms);
      return;
    }
    // The question is taken back, picture and all, and may be asked again.
    conversation_.undo();
    code_ = client::fail(timed.answer.error());
  }

  void set_running(client::Cancellation* cancellation) {
    const std::lock_guard lock(mutex_);
    running_ = cancellation;
  }

  client::Client* server_ = nullptr;
  client::ChatRequest base_;
  bool stream_;
  bool verbose_;
  bool interactive_;
  int code_ = 0;
  client::Conversation conversation_;
  // Goes with the next question.
  std::optional<client::Image> image_;
  std::mutex mutex_;
  client::Cancellation* running_ = nullptr;
};

}  // namespace

int run_chat(const std::vector<std::string>& arguments) {
  std::string image;
  bool stream = true;
  bool verbose = false;
  client::ConnectionFlags connection;
  client::RequestFlags request;
  OptionTable table("chat", "[--image FILE] [options]",
                    "a conversation about a picture; one question a line.");
  table.group("Chat");
  table.add("image", &image, "FILE", "JPEG, PNG or WebP, shown with the first question.");
  table.add("stream", &stream, "Show answers as they are made.");
  table.add("verbose", &verbose, "Also counts, speed and stage times of each answer (stderr).");
  connection.add_to(&table);
  request.add_to(&table);
  std::vector<std::string> positional;
  if (const auto code = client::parse_arguments(&table, arguments, &positional)) return *code;
  if (!positional.empty()) {
    return client::fail(client::kExitUsage, "USAGE", "", "unexpected: " + positional[0]);
  }
  if (image == "-") {
    return client::fail(client::kExitUsage, "USAGE", "--image",
                        "stdin is for the questions here; name a file");
  }
  client::ChatRequest base;
  if (const absl::Status status = request.apply(&base); !status.ok()) {
    return client::fail(client::kExitUsage, "USAGE", "", std::string(status.message()));
  }

  ChatSession session(std::move(base), stream, verbose);
  if (!image.empty()) {
    auto bytes = client::read_file(image);
    if (!bytes.ok()) {
      return client::fail(client::kExitLocal, bytes.error().reason, "--image",
                          bytes.error().message);
    }
    session.show_image({*std::move(bytes)});
  }
  const client::Interrupt interrupt([&session] {
    if (!session.stop_answer()) std::_Exit(130);
  });
  auto server = connection.connect();
  if (!server.ok()) return client::fail(server.error());
  return session.run(&*server);
}

}  // namespace cogserve
