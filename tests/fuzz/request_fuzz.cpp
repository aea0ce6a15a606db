// Bytes from the wire -> ChatRequest -> validation: no input may crash it, an accepted request
// keeps every promise that the code behind relies on, and a refusal always says why.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "engine/base/error.hpp"
#include "server/request_validation.hpp"

namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

cogserve::RequestRules fuzz_rules() {
  cogserve::RequestRules rules;
  rules.model_names = {"m"};
  rules.vocab_size = 640;
  return rules;
}

void check_accepted(const cogserve::CheckedRequest& checked, const cogserve::RequestRules& rules) {
  const cogserve::RequestLimits& limits = rules.limits;
  const cogserve::SamplingParams& sampling = checked.sampling;
  require(!checked.turns.empty() && checked.turns.size() % 2 == 1);
  require(checked.turns.size() <= limits.max_messages);
  require(std::isfinite(sampling.temperature) && sampling.temperature >= 0);
  require(sampling.top_p > 0 && sampling.top_p <= 1);
  require(sampling.repetition_penalty > 0);
  require(sampling.logprobs <= limits.max_logprobs);
  require(!checked.max_tokens.has_value() ||
          (*checked.max_tokens >= 1 && checked.min_tokens <= *checked.max_tokens));
  require(checked.request_id.size() <= limits.max_request_id_bytes);
  for (const std::string& stop : checked.stop) {
    require(!stop.empty() && stop.size() <= limits.max_stop_bytes);
  }
  for (const int32_t id : checked.stop_token_ids) require(id >= 0 && id < rules.vocab_size);
  require(
      cogserve::text::render_prompt(checked.chat_template, checked.turns, checked.has_image).ok());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const cogserve::RequestRules rules = fuzz_rules();
  cogserve::v1::ChatRequest request;
  if (!request.ParseFromArray(data, static_cast<int>(size))) return 0;
  const auto checked = check_request(request, rules);
  if (checked.ok()) {
    check_accepted(*checked, rules);
  } else {
    require(!cogserve::error_reason(checked.status()).empty());
    require(!cogserve::error_field(checked.status()).empty());
  }
  return 0;
}
