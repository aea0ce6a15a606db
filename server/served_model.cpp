#include "server/served_model.hpp"

#include <utility>

namespace cogserve {
namespace {

v1::Template wire_template(text::Template chat_template) {
  switch (chat_template) {
    case text::Template::kChat:
      return v1::TEMPLATE_CHAT;
    case text::Template::kVqa:
      return v1::TEMPLATE_VQA;
    case text::Template::kBase:
      return v1::TEMPLATE_BASE;
  }
  return v1::TEMPLATE_UNSPECIFIED;
}

RequestRules make_rules(const EngineInfo& info, const ServedModelOptions& options) {
  RequestRules rules;
  rules.limits = options.limits;
  rules.model_names = options.names;
  const std::string& name =
      options.chat_template.empty() ? info.model.template_name : options.chat_template;
  rules.default_template = text::parse_template(name).value_or(text::Template::kChat);
  rules.generation = info.generation;
  rules.vocab_size = info.model.vocab;
  return rules;
}

void describe_limits(const EngineInfo& info, const ServedModelOptions& options, v1::Limits* to) {
  const RequestLimits& limits = options.limits;
  to->set_max_model_len(info.max_model_len);
  to->set_max_tokens(limits.max_tokens);
  to->set_max_messages(static_cast<int32_t>(limits.max_messages));
  to->set_max_prompt_bytes(static_cast<int64_t>(limits.max_prompt_bytes));
  to->set_max_image_bytes(static_cast<int64_t>(limits.image.max_encoded_bytes));
  to->set_max_image_pixels(limits.image.max_pixels);
  to->set_max_logprobs(limits.max_logprobs);
  to->set_max_num_seqs(options.engine.max_num_seqs);
  to->set_max_queue_size(options.engine.max_queue_size);
  to->set_max_message_bytes(options.max_message_bytes);
}

v1::Model describe(const EngineInfo& info, const RequestRules& rules,
                   const ServedModelOptions& options) {
  v1::Model model;
  model.set_name(rules.model_names.front());
  model.set_device(info.device);
  model.set_dtype(info.dtype);
  model.set_rope_dtype(info.rope_dtype);
  model.set_default_template(wire_template(rules.default_template));
  model.set_image_tokens(info.model.vision.image_tokens());
  model.set_image_size(info.model.vision.image_size);
  model.set_kv_cache_tokens(info.kv_tokens());
  model.set_kv_block_size(info.block_size);
  model.set_vocab_size(info.model.vocab);
  describe_limits(info, options, model.mutable_limits());
  v1::Sampling& sampling = *model.mutable_default_sampling();
  sampling.set_temperature(rules.generation.temperature);
  sampling.set_top_p(rules.generation.top_p);
  sampling.set_top_k(rules.generation.top_k);
  sampling.set_repetition_penalty(rules.generation.repetition_penalty);
  model.set_server_version(COGSERVE_VERSION);
  return model;
}

PreprocessLimits preprocess_limits(const ServedModelOptions& options) {
  PreprocessLimits limits;
  limits.threads = options.preprocess_threads;
  limits.max_queued_texts = options.engine.max_queue_size;
  return limits;
}

}  // namespace

ServedModel::ServedModel(std::unique_ptr<Engine> engine, text::Tokenizer tokenizer,
                         const ServedModelOptions& options)
    : engine_config_(options.engine),
      tokenizer_(std::move(tokenizer)),
      executor_(options.writer_threads),
      engine_(std::move(engine)),
      rules_(make_rules(engine_->info(), options)),
      description_(describe(engine_->info(), rules_, options)),
      preprocessor_(engine_.get(), &tokenizer_, options.limits, options.engine.seed,
                    preprocess_limits(options)) {}

}  // namespace cogserve
