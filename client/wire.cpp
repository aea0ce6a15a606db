#include "client/wire.hpp"

#include <utility>

#include "client/utf8.hpp"
#include "cogserve/v1/cogserve.pb.h"

namespace cogserve::client {
namespace {

void write_sampling(const Sampling& sampling, v1::Sampling* out) {
  if (sampling.temperature) out->set_temperature(*sampling.temperature);
  if (sampling.top_p) out->set_top_p(*sampling.top_p);
  if (sampling.top_k) out->set_top_k(*sampling.top_k);
  if (sampling.min_p) out->set_min_p(*sampling.min_p);
  if (sampling.repetition_penalty) out->set_repetition_penalty(*sampling.repetition_penalty);
  if (sampling.presence_penalty) out->set_presence_penalty(*sampling.presence_penalty);
  if (sampling.frequency_penalty) out->set_frequency_penalty(*sampling.frequency_penalty);
  if (sampling.seed) out->set_seed(*sampling.seed);
}

Sampling read_sampling(const v1::Sampling& sampling) {
  Sampling out;
  if (sampling.has_temperature()) out.temperature = sampling.temperature();
  if (sampling.has_top_p()) out.top_p = sampling.top_p();
  if (sampling.has_top_k()) out.top_k = sampling.top_k();
  if (sampling.has_min_p()) out.min_p = sampling.min_p();
  if (sampling.has_repetition_penalty()) out.repetition_penalty = sampling.repetition_penalty();
  if (sampling.has_presence_penalty()) out.presence_penalty = sampling.presence_penalty();
  if (sampling.has_frequency_penalty()) out.frequency_penalty = sampling.frequency_penalty();
  if (sampling.has_seed()) out.seed = sampling.seed();
  return out;
}

void write_stopping(const Stopping& stopping, v1::Stopping* out) {
  if (stopping.max_tokens) out->set_max_tokens(*stopping.max_tokens);
  if (stopping.min_tokens) out->set_min_tokens(*stopping.min_tokens);
  for (const auto& stop : stopping.stop) out->add_stop(stop);
  for (const int32_t id : stopping.stop_token_ids) out->add_stop_token_ids(id);
  out->set_ignore_eos(stopping.ignore_eos);
}

Usage read_usage(const v1::Usage& usage) {
  return {usage.prompt_tokens(), usage.image_tokens(), usage.completion_tokens()};
}

Timings read_timings(const v1::Timings& timings) {
  return {timings.queue_ms(),   timings.image_decode_ms(), timings.vision_ms(),
          timings.prefill_ms(), timings.decode_ms(),       timings.total_ms()};
}

template <typename Logprobs>
std::vector<TokenLogprob> read_logprobs(const Logprobs& logprobs) {
  std::vector<TokenLogprob> out;
  out.reserve(static_cast<size_t>(logprobs.size()));
  for (const auto& logprob : logprobs) {
    TokenLogprob token{{logprob.token_id(), logprob.token(), logprob.logprob()}, {}};
    for (const auto& top : logprob.top()) {
      token.top.push_back({top.token_id(), top.token(), top.logprob()});
    }
    out.push_back(std::move(token));
  }
  return out;
}

// The index of the first part that is a text and not UTF-8.
std::optional<size_t> find_bad_part(const Message& message) {
  for (size_t i = 0; i < message.parts.size(); ++i) {
    const auto* text = std::get_if<std::string>(&message.parts[i]);
    if (text != nullptr && !is_utf8(*text)) return i;
  }
  return std::nullopt;
}

}  // namespace

Error text_error(std::string field) {
  return {.code = Code::kInvalidArgument,
          .reason = "TEXT_UTF8",
          .field = std::move(field),
          .message = "text must be UTF-8"};
}

std::optional<Error> check_texts(const ChatRequest& request) {
  if (!is_utf8(request.model)) return text_error("model");
  if (!is_utf8(request.request_id)) return text_error("request_id");
  for (size_t i = 0; i < request.messages.size(); ++i) {
    if (const auto part = find_bad_part(request.messages[i])) {
      return text_error("messages[" + std::to_string(i) + "].parts[" + std::to_string(*part) +
                        "].text");
    }
  }
  const auto& stop = request.stopping.stop;
  for (size_t i = 0; i < stop.size(); ++i) {
    if (!is_utf8(stop[i])) return text_error("stopping.stop[" + std::to_string(i) + "]");
  }
  return std::nullopt;
}

void write_request(const ChatRequest& request, v1::ChatRequest* out) {
  out->set_model(request.model);
  for (const auto& message : request.messages) {
    auto* turn = out->add_messages();
    turn->set_role(static_cast<v1::Role>(message.role));
    for (const auto& part : message.parts) {
      if (const auto* image = std::get_if<Image>(&part)) {
        turn->add_parts()->set_image(image->bytes);
      } else {
        turn->add_parts()->set_text(std::get<std::string>(part));
      }
    }
  }
  out->set_template_(static_cast<v1::Template>(request.prompt_template));
  write_sampling(request.sampling, out->mutable_sampling());
  write_stopping(request.stopping, out->mutable_stopping());
  if (request.logprobs) out->set_logprobs(*request.logprobs);
  out->set_return_token_ids(request.return_token_ids);
  out->set_request_id(request.request_id);
}

Answer read_answer(const v1::ChatResponse& response) {
  Answer answer;
  answer.request_id = response.request_id();
  answer.model = response.model();
  answer.text = response.text();
  answer.finish_reason = static_cast<FinishReason>(response.finish_reason());
  answer.matched_stop = response.matched_stop();
  answer.usage = read_usage(response.usage());
  answer.timings = read_timings(response.timings());
  answer.token_ids.assign(response.token_ids().begin(), response.token_ids().end());
  answer.logprobs = read_logprobs(response.logprobs());
  return answer;
}

ModelInfo read_model(const v1::Model& model) {
  const auto& limits = model.limits();
  return {.name = model.name(),
          .device = model.device(),
          .dtype = model.dtype(),
          .rope_dtype = model.rope_dtype(),
          .default_template = static_cast<Template>(model.default_template()),
          .image_tokens = model.image_tokens(),
          .image_size = model.image_size(),
          .kv_cache_tokens = model.kv_cache_tokens(),
          .kv_block_size = model.kv_block_size(),
          .vocab_size = model.vocab_size(),
          .limits = {.max_model_len = limits.max_model_len(),
                     .max_tokens = limits.max_tokens(),
                     .max_messages = limits.max_messages(),
                     .max_prompt_bytes = limits.max_prompt_bytes(),
                     .max_image_bytes = limits.max_image_bytes(),
                     .max_image_pixels = limits.max_image_pixels(),
                     .max_logprobs = limits.max_logprobs(),
                     .max_num_seqs = limits.max_num_seqs(),
                     .max_queue_size = limits.max_queue_size(),
                     .max_message_bytes = limits.max_message_bytes()},
          .default_sampling = read_sampling(model.default_sampling()),
          .server_version = model.server_version()};
}

const Delta* AnswerBuilder::add(const v1::StreamChatResponse& response) {
  if (finals_ > 0) went_on_ = true;
  if (!response.request_id().empty()) answer_.request_id = response.request_id();
  if (!response.model().empty()) answer_.model = response.model();
  if (response.has_final()) {
    ++finals_;
    const auto& final = response.final();
    answer_.finish_reason = static_cast<FinishReason>(final.finish_reason());
    answer_.matched_stop = final.matched_stop();
    answer_.usage = read_usage(final.usage());
    answer_.timings = read_timings(final.timings());
    return nullptr;
  }
  const auto& delta = response.delta();
  delta_.text = delta.text();
  delta_.token_ids.assign(delta.token_ids().begin(), delta.token_ids().end());
  delta_.logprobs = read_logprobs(delta.logprobs());
  answer_.text += delta_.text;
  answer_.token_ids.insert(answer_.token_ids.end(), delta_.token_ids.begin(),
                           delta_.token_ids.end());
  answer_.logprobs.insert(answer_.logprobs.end(), delta_.logprobs.begin(), delta_.logprobs.end());
  return &delta_;
}

Result<Answer> AnswerBuilder::take() {
  if (finals_ != 1 || went_on_) {
    return Error{.code = Code::kInternal,
                 .reason = "STREAM_INCOMPLETE",
                 .message = finals_ == 0 ? "the stream ended without its final message"
                                         : "the stream went on after its final message"};
  }
  return std::move(answer_);
}

}  // namespace cogserve::client
