// The flags that shape an answer: model, template, sampling, stopping, log-probabilities. An absent
// flag leaves the choice to the server.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/types.hpp"
#include "command/option_table.hpp"

namespace cogserve::client {

struct RequestFlags {
  std::string model;
  std::string prompt_template = "default";
  std::string max_tokens;
  std::string min_tokens;
  std::string temperature;
  std::string top_p;
  std::string top_k;
  std::string min_p;
  std::string repetition_penalty;
  std::string presence_penalty;
  std::string frequency_penalty;
  std::string seed;
  std::vector<std::string> stop;
  std::vector<std::string> stop_token_ids;
  std::string logprobs;
  bool ignore_eos = false;
  bool token_ids = false;

  // `this` must outlive the table.
  void add_to(OptionTable* table);

  // Everything but the messages. INVALID_ARGUMENT names the flag; ranges are the server's to check.
  absl::Status apply(ChatRequest* request) const;
};

}  // namespace cogserve::client
