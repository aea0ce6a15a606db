// ChatRequest to checked values: every limit and range that can be judged without the tokenizer.
//
// Pure functions, called on the RPC thread before anything is allocated for a request. Errors carry
// reason, field path ("messages[2].parts[0].image"), limit and what was got.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cogserve/v1/cogserve.pb.h"
#include "engine/config.hpp"
#include "engine/request.hpp"
#include "server/request_limits.hpp"
#include "server/text/chat_template.hpp"

namespace cogserve {

// What a request is checked against.
struct RequestRules {
  RequestLimits limits;
  std::vector<std::string> model_names;  // the first is the one that answers carry
  text::Template default_template = text::Template::kChat;
  GenerationConfig generation;
  int vocab_size = 0;
};

struct CheckedRequest {
  std::string request_id;  // empty: the caller brought none
  text::Template chat_template = text::Template::kChat;
  std::vector<text::Turn> turns;  // alternate; the user's first and last
  bool has_image = false;
  std::string image;        // encoded
  std::string image_field;  // "messages[0].parts[1].image"
  SamplingParams sampling;  // seed not set
  std::optional<uint64_t> seed;
  std::optional<int> max_tokens;
  int min_tokens = 0;
  bool ignore_eos = false;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  bool return_token_ids = false;
};

// The caller's own name for a request: empty, or short and plain.
absl::Status check_request_id(const std::string& id, const RequestLimits& limits);

absl::StatusOr<CheckedRequest> check_request(v1::ChatRequest request, const RequestRules& rules);

}  // namespace cogserve
