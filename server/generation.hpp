// One answer in the making: the engine's tokens in, text, log-probabilities and the end out.
//
// Owned by its Call and used by one thread at a time. Shared by the unary and the streaming method,
// so both give the same answer.
#pragma once

#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "cogserve/v1/cogserve.pb.h"
#include "server/preprocess.hpp"
#include "server/served_model.hpp"
#include "server/text/text_stream.hpp"

namespace cogserve {

// The part of a request that concerns what comes out.
struct OutputOptions {
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  int min_tokens = 0;
  bool ignore_eos = false;
  bool return_token_ids = false;
  bool return_logprobs = false;
  // The prompt ends in "Answer:" and the model goes on with " word": the space is not the answer's.
  bool strip_leading_space = false;
};

class Generation {
 public:
  // `model` outlives it. `received`: when the call came in.
  Generation(const ServedModel& model, OutputOptions options, Submission submission,
             Clock::time_point received);

  // Appends what has arrived to `delta`. False if that is nothing that a client would see.
  bool take(v1::Delta* delta);

  // The answer is not wanted any more: the engine frees what it holds within one step.
  void cancel() { submission_.stream->cancel(); }

  // How many tokens `take` has given.
  int tokens() const { return completion_tokens_; }

  // True once the engine has ended the answer and `take` has given all of it.
  bool ended() const { return status_.has_value(); }
  // How; when `ended`.
  const absl::Status& status() const { return *status_; }
  const v1::Final& final() const { return final_; }

 private:
  void on_token(const SampledToken& token, v1::Delta* delta);
  void on_end(const EndEvent& end, v1::Delta* delta);
  bool is_end_token(int32_t id) const;
  void add_logprobs(const SampledToken& token, v1::Delta* delta) const;

  const ServedModel& model_;
  const OutputOptions options_;
  const Submission submission_;
  const Clock::time_point received_;
  text::TextStream text_;
  bool stop_matched_ = false;
  int completion_tokens_ = 0;
  std::optional<absl::Status> status_;
  v1::Final final_;
};

}  // namespace cogserve
