#include "server/chat_reactor.hpp"

#include "server/message_bytes.hpp"

namespace cogserve {

void ChatReactor::write(v1::Delta* delta) {
  *response_.mutable_text() += delta->text();
  response_.mutable_token_ids()->MergeFrom(delta->token_ids());
  for (v1::TokenLogprob& logprob : *delta->mutable_logprobs()) {
    response_.add_logprobs()->Swap(&logprob);
  }
  call().on_written(true);
}

void ChatReactor::finish(const absl::Status& status, const v1::Final& final) {
  free_place();
  if (!status.ok()) {
    Finish(failure(status));
    return;
  }
  response_.set_request_id(call().request_id());
  response_.set_model(call().model_name());
  response_.set_finish_reason(final.finish_reason());
  response_.set_matched_stop(final.matched_stop());
  *response_.mutable_usage() = final.usage();
  *response_.mutable_timings() = final.timings();
  Finish(write_message(response_, response_bytes_));
}

}  // namespace cogserve
