// Requests that must be refused, each with the code, reason and field it must be refused with.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "cogserve/v1/cogserve.pb.h"

namespace cogserve {

struct MalformedRequest {
  std::string name;
  v1::ChatRequest request;
  absl::StatusCode code = absl::StatusCode::kInvalidArgument;
  std::string reason;
  std::string field;
};

// Those that the validator refuses. `vocab_size` and model name "fake" are the server's.
std::vector<MalformedRequest> malformed_requests(int vocab_size);

// Those that pass it, and are refused by tokenizer or picture reading: too long for a context of
// `max_model_len`, or no picture.
std::vector<MalformedRequest> unpreparable_requests(int max_model_len);

}  // namespace cogserve
