#include "server/generation.hpp"

#include <algorithm>
#include <string>
#include <utility>

namespace cogserve {
namespace {

double to_ms(std::chrono::nanoseconds time) {
  return std::chrono::duration<double, std::milli>(time).count();
}

bool contains(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

Generation::Generation(const ServedModel& model, OutputOptions options, Submission submission,
                       Clock::time_point received)
    : model_(model),
      options_(std::move(options)),
      submission_(std::move(submission)),
      received_(received),
      text_(&model.tokenizer(), {.stops = options_.stop,
                                 .min_tokens = options_.min_tokens,
                                 .strip_leading_space = options_.strip_leading_space}) {}

bool Generation::take(v1::Delta* delta) {
  while (!ended()) {
    const std::optional<TokenStream::Event> event = submission_.stream->pop();
    if (!event.has_value()) break;
    if (const auto* token = std::get_if<TokenEvent>(&*event)) {
      on_token(token->token, delta);
    } else {
      on_end(std::get<EndEvent>(*event), delta);
    }
  }
  return !delta->text().empty() || delta->token_ids_size() > 0 || delta->logprobs_size() > 0;
}

void Generation::on_token(const SampledToken& token, v1::Delta* delta) {
  // The engine may be some tokens ahead of a stop string; the answer is the same as if it were not.
  if (stop_matched_) return;
  ++completion_tokens_;
  if (options_.return_token_ids) delta->add_token_ids(token.id);
  if (options_.return_logprobs) add_logprobs(token, delta);
  if (is_end_token(token.id)) return;
  *delta->mutable_text() += text_.push(token.id);
  if (text_.stopped()) {
    stop_matched_ = true;
    submission_.stream->cancel();
  }
}

bool Generation::is_end_token(int32_t id) const {
  if (contains(options_.stop_token_ids, id)) return true;
  return !options_.ignore_eos && contains(model_.engine().info().model.eos_ids, id);
}

void Generation::add_logprobs(const SampledToken& token, v1::Delta* delta) const {
  v1::TokenLogprob* logprob = delta->add_logprobs();
  logprob->set_token_id(token.id);
  logprob->set_token(std::string(model_.tokenizer().token_bytes(token.id)));
  logprob->set_logprob(token.logprob);
  for (const TokenLogprob& other : token.top) {
    v1::TopLogprob* top = logprob->add_top();
    top->set_token_id(other.id);
    top->set_token(std::string(model_.tokenizer().token_bytes(other.id)));
    top->set_logprob(other.logprob);
  }
}

void Generation::on_end(const EndEvent& end, v1::Delta* delta) {
  status_ = stop_matched_ ? absl::OkStatus() : end.status;
  if (!status_->ok()) return;
  if (!stop_matched_) *delta->mutable_text() += text_.finish();
  // The rest of the text may hold a stop string, too: it was waiting for a character to complete.
  stop_matched_ = text_.stopped();
  const bool stopped = stop_matched_ || end.reason == FinishReason::kStop;
  final_.set_finish_reason(stopped ? v1::FINISH_REASON_STOP : v1::FINISH_REASON_LENGTH);
  if (stop_matched_) final_.set_matched_stop(options_.stop[*text_.stop_index()]);
  v1::Usage& usage = *final_.mutable_usage();
  usage.set_prompt_tokens(end.prompt_tokens);
  usage.set_image_tokens(end.image_tokens);
  usage.set_completion_tokens(completion_tokens_);
  v1::Timings& timings = *final_.mutable_timings();
  timings.set_queue_ms(to_ms(end.timings.queue));
  timings.set_image_decode_ms(to_ms(submission_.image_decode));
  timings.set_vision_ms(to_ms(end.timings.vision));
  timings.set_prefill_ms(to_ms(end.timings.prefill));
  timings.set_decode_ms(to_ms(end.timings.decode));
  timings.set_total_ms(to_ms(Clock::now() - received_));
}

}  // namespace cogserve
