#include "server/warmup.hpp"

#include <algorithm>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

namespace cogserve {
namespace {

// Of each text of a batch: whichever starts first, all are together for a few steps (if a step
// takes so many rows). A device that records what it does runs a new batch once, and records it in
// the next step.
constexpr int64_t kBatchTokens = 6;

using WaitALittle = std::function<void()>;

absl::Status read(TokenStream& stream, const WaitALittle& wait_a_little) {
  while (true) {
    const std::optional<TokenStream::Event> event = stream.pop();
    if (!event.has_value()) {
      wait_a_little();
    } else if (const auto* end = std::get_if<EndEvent>(&*event)) {
      return end->status;
    }
  }
}

absl::Status run(Engine& engine, Request request, const WaitALittle& wait_a_little) {
  const auto stream = engine.submit(std::move(request));
  return stream.ok() ? read(**stream, wait_a_little) : stream.status();
}

// As many at once as are admitted: a queue that is short, or short of time, makes a smaller batch.
absl::Status run_batch(Engine& engine, const Request& request, int size,
                       const WaitALittle& wait_a_little) {
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (int i = 0; i < size; ++i) {
    const auto stream = engine.submit(request);
    if (absl::IsResourceExhausted(stream.status())) break;
    if (!stream.ok()) return stream.status();
    streams.push_back(*stream);
  }
  for (const auto& stream : streams) {
    const absl::Status status = read(*stream, wait_a_little);
    const bool refused = absl::IsResourceExhausted(status) || absl::IsDeadlineExceeded(status);
    if (!status.ok() && !refused) return status;
  }
  return absl::OkStatus();
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
  if (auto status = run(engine, text, wait_a_little); !status.ok()) return status;
  const int64_t room = std::min<int64_t>(info.max_model_len, info.kv_tokens());
  // A context too short for a picture still serves text.
  if (room >= 1 + vision.image_tokens() + 1 + text.max_tokens) {
    Request picture = text;
    picture.id = "warmup-picture";
    picture.pixels.assign(size_t{3} * vision.image_size * vision.image_size, 0.0f);
    if (auto status = run(engine, std::move(picture), wait_a_little); !status.ok()) return status;
  }
  text.id = "warmup-batch";
  text.max_tokens = static_cast<int>(std::min(kBatchTokens, room - 2));
  // The largest first: what a device makes room for once it then has for the others too.
  for (auto size = info.decode_batches.rbegin(); size != info.decode_batches.rend(); ++size) {
    if (auto status = run_batch(engine, text, *size, wait_a_little); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace cogserve
