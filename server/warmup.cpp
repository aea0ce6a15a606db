#include "server/warmup.hpp"

#include <algorithm>
#include <optional>
#include <utility>
#include <variant>

namespace cogserve {
namespace {

absl::Status run(Engine& engine, Request request, const std::function<void()>& wait_a_little) {
  auto stream = engine.submit(std::move(request));
  if (!stream.ok()) return stream.status();
  while (true) {
    const std::optional<TokenStream::Event> event = (*stream)->pop();
    if (!event.has_value()) {
      wait_a_little();
    } else if (const auto* end = std::get_if<EndEvent>(&*event)) {
      return end->status;
    }
  }
}

}  // namespace

absl::Status warm_up(Engine& engine, const std::function<void()>& wait_a_little) {
  const EngineInfo& info = engine.info();
  const VisionConfig& vision = info.model.vision;
  Request text;
  text.id = "warmup-text";
  text.text_ids = {0};
  text.sampling.temperature = 0;
  text.max_tokens = 2;
  text.ignore_eos = true;
  Request picture = text;
  picture.id = "warmup-picture";
  picture.pixels.assign(size_t{3} * vision.image_size * vision.image_size, 0.0f);
  absl::Status status = run(engine, std::move(text), wait_a_little);
  if (!status.ok()) return status;
  // A context too short for a picture still serves text.
  const int64_t room = std::min<int64_t>(info.max_model_len, info.kv_tokens());
  if (room < 1 + vision.image_tokens() + 1 + picture.max_tokens) return absl::OkStatus();
  return run(engine, std::move(picture), wait_a_little);
}

}  // namespace cogserve
