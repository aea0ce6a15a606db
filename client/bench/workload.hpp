// What a load test asks. A workload is an endless list of sessions, each a pure function of the
// seed and its number: one or several questions asked one after the other, about one picture or
// none. Used by one thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "client/bench/custom_prompts.hpp"
#include "client/bench/picture.hpp"
#include "client/error.hpp"

namespace cogserve::client {

// How one kind of session looks.
struct SessionShape {
  bool image = false;
  // Sessions that ask about the same picture.
  int questions_per_image = 1;
  int turns = 1;
  // Of each question, and of each answer.
  int input_tokens = 0;
  int output_tokens = 0;
};

struct Session {
  std::vector<std::string> questions;
  // Encoded picture shown with the first question; may be null. Shared with other sessions.
  std::shared_ptr<const std::string> image;
  int output_tokens = 0;
};

class Workload {
 public:
  struct Options {
    // Shapes and their shares, which add up to 1.
    std::vector<std::pair<SessionShape, double>> mix = {};
    PictureSpec picture = {};
    uint64_t seed = 0;
    // Of the served model's tokenizer; turns token counts into words.
    double tokens_per_word = 1.0;
    // Instead of invented questions and pictures: these, round and round.
    std::vector<CustomPrompt> custom = {};
  };

  explicit Workload(Options options);

  // FILE_READ for a custom picture that cannot be read.
  Result<Session> session(uint64_t number);

  const Options& options() const { return options_; }

 private:
  const SessionShape& shape_of(uint64_t number) const;
  std::shared_ptr<const std::string> draw(uint64_t number) const;
  std::shared_ptr<const std::string> shared_picture(uint64_t number);
  Result<Session> custom_session(uint64_t number);

  Options options_;
  // The last few pictures of sessions that share them, with their numbers; the latest asked for is
  // the last.
  std::vector<std::pair<uint64_t, std::shared_ptr<const std::string>>> shared_;
  std::map<std::string, std::shared_ptr<const std::string>> files_;
};

// "w1" to "w5", "random-mm", "random"; `input_tokens`, `output_tokens` and `questions_per_image`
// replace the workload's own where given. Empty where the name is unknown.
std::vector<std::pair<SessionShape, double>> workload_mix(std::string_view name,
                                                          std::optional<int> input_tokens,
                                                          std::optional<int> output_tokens,
                                                          std::optional<int> questions_per_image);

}  // namespace cogserve::client
