// A real gRPC server in this process whose answers the test writes down. Every call is answered by
// the handler in force; what was asked is kept. Thread-safe.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cogserve/v1/cogserve.pb.h"

namespace cogserve::client {

struct Reply {
  // The text, piece by piece; one token each.
  std::vector<std::string> deltas;
  // Then wait until the call is cancelled.
  bool hang = false;
  // Then end: with an answer where `code` is 0, else with a status and these details.
  int code = 0;
  std::string message;
  std::string reason;
  std::string field;
  int retry_after_ms = -1;
  std::map<std::string, std::string> metadata;
  bool leave_out_final = false;
  v1::Usage usage;
  v1::Timings timings;
};

class FakeServer {
 public:
  using Handler = std::function<Reply(const v1::ChatRequest&)>;

  // `max_streams`: calls of one connection at the same time; 0: any number.
  explicit FakeServer(int max_streams = 0);
  ~FakeServer();

  // Until told otherwise the answer is "You asked: " and the last question, a word at a time.
  void set_handler(Handler handler);
  // Answers the calls in order; the last reply stays.
  void set_replies(std::vector<Reply> replies);
  void set_model(v1::Model model);
  void set_serving(bool serving);

  // Ends every call and stops listening.
  void stop();

  std::string target() const;
  std::vector<v1::ChatRequest> requests() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The text parts of the last message.
std::string last_question(const v1::ChatRequest& request);

}  // namespace cogserve::client
